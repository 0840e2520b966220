//! Compiles `broky/v1/*.proto` with protox, so that no protoc has to be installed.

use protox::prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=broky");
    let descriptors = protox::compile(["broky/v1/broky.proto"], ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".broky.v1")
        .build_server(false)
        .build_client(false)
        .compile_fds(descriptors)?;
    // What nodes say to one another is not part of what clients are shown by reflection.
    let peers = protox::compile(["broky/peer/v1/replicate.proto"], ["."])?;
    tonic_prost_build::configure()
        .bytes(".broky.peer.v1")
        .build_server(false)
        .build_client(false)
        .compile_fds(peers)?;
    Ok(())
}
