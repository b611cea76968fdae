//! Compiles hotadd/v1/*.proto without protoc and keeps the descriptor set for reflection.
use prost::Message as _;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["common", "proxy", "disk", "job"].map(|name| format!("hotadd/v1/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".hotadd.v1.Frame").skip_debug([".hotadd.v1.CloneTicket"]).compile_fds(set)?;
    Ok(())
}
