//! Lists the pages of docs/reasons, so that a new one is embedded without being named anywhere.
use std::{env, fmt::Write as _, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("../../../docs/reasons");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let mut list = String::from("&[");
    for file in &files {
        let code = file.file_stem().unwrap_or_default().to_string_lossy();
        // Writing to a String does not fail.
        let _ = writeln!(list, "({code:?}, include_str!({:?})),", fs::canonicalize(file)?);
    }
    list.push(']');
    fs::write(PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?).join("pages.rs"), list)
}
