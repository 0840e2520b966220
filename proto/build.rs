//! Compiles the `.proto` files with protox, so that no protoc has to be installed.

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
    // Apart from the client protocol, so that reflection does not show it.
    let peers = protox::compile(["broky/peer/v1/control.proto"], ["."])?;
    tonic_prost_build::configure().bytes(".broky.peer.v1").build_transport(false).compile_fds(peers)?;
    let data = ["broky/data/v1/replicate.proto", "broky/data/v1/forward.proto", "broky/data/v1/relay.proto"];
    let data = protox::compile(data, ["."])?;
    tonic_prost_build::configure()
        .bytes(".broky.data.v1")
        .boxed(".broky.data.v1.ToFollower.frame.block")
        .build_server(false)
        .build_client(false)
        .compile_fds(data)?;
    Ok(())
}
