//! tonic's services: health, reflection, and `UNIMPLEMENTED` for everything else.

use std::io;

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The client API's name, as health checks ask for it.
const SERVICE: &str = "broky.v1.Broker";

/// The services, and the handle by which their health is set.
pub(crate) async fn routes() -> io::Result<(Routes, HealthReporter)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(broky_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(health)
        // Clients of both generations are about.
        .add_service(reflection().build_v1().map_err(io::Error::other)?)
        .add_service(reflection().build_v1alpha().map_err(io::Error::other)?);
    Ok((routes.prepare(), reporter))
}

/// Tells health checks that the node takes no more calls.
pub(crate) async fn set_not_serving(reporter: &HealthReporter) {
    for service in ["", SERVICE] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
}
