//! `hotadd-ova`: packs the disk image of the appliance into an OVA, and prints the questions that it asks.
#![forbid(unsafe_code)]

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use hotadd_appliance::{machine, properties, reasons};
use hotadd_ova::{Archive, DiskWriter, Error, Package, Signer};

/// How much is read and compressed at once.
const CHUNK: u64 = 4 << 20;

#[derive(Debug, Parser)]
#[command(version, about = "Builds the OVA of the proxy appliance")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pack a disk image
    Pack(Pack),
    /// Print the table of properties, as docs/appliance.md has it
    Properties,
    /// Print the table of reasons, as docs/appliance.md has it
    Reasons,
}

#[derive(Debug, Args)]
struct Pack {
    /// Raw image of the system disk
    #[arg(long, value_name = "FILE")]
    system: PathBuf,
    /// Text of the licence
    #[arg(long, value_name = "FILE")]
    eula: PathBuf,
    /// Of the product, shown by vSphere
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    product_version: String,
    /// The archive
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Signs it: RSA key, PKCS #8 PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Certificate of the key, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Pack(args) => pack(&args),
        Command::Properties => {
            print!("{}", properties::table());
            Ok(())
        }
        Command::Reasons => {
            print!("{}", reasons::table());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hotadd-ova: {error}");
            ExitCode::FAILURE
        }
    }
}

fn pack(args: &Pack) -> Result<(), Error> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |error| Error::Io { path: path.clone(), error }
    };
    let license = std::fs::read_to_string(&args.eula).map_err(io(&args.eula))?;
    let signer = match (&args.key, &args.certificate) {
        (Some(key), Some(certificate)) => Some(Signer::open(key, certificate)?),
        _ => None,
    };
    let system = File::open(&args.system).map_err(io(&args.system))?;
    let capacity = system.metadata().map_err(io(&args.system))?.len();
    let machine = machine::machine(&args.product_version, &license);
    let disks: Vec<_> = (0..machine::CONTROLLERS)
        .map(|disk| (machine::label(disk), if disk == 0 { capacity } else { machine::ANCHOR_BYTES }))
        .collect();
    let mut package = Package::begin(Archive::create(&args.out)?, "hotadd-proxy", &machine, &disks, signer.as_ref())?;
    let mut writer = package.disk(1)?;
    copy(&system, &args.system, capacity, &mut writer)?;
    writer.end()?;
    for disk in 1..machine::CONTROLLERS {
        let mut writer = package.disk(disk + 1)?;
        let mut grain = machine::anchor(disk).into_bytes();
        grain.resize(hotadd_vmdk::GRAIN, 0);
        writer.write(0, &grain)?;
        writer.end()?;
    }
    let (size, files) = package.finish()?;
    for file in files {
        println!("{}: {} bytes of {}", file.name, file.size, file.capacity);
    }
    println!("{}: {size} bytes", args.out.display());
    Ok(())
}

fn copy(system: &File, path: &Path, capacity: u64, writer: &mut DiskWriter<'_>) -> Result<(), Error> {
    let mut chunk = vec![0; usize::try_from(CHUNK).unwrap_or(usize::MAX)];
    let mut offset = 0;
    while offset < capacity {
        let length = usize::try_from(CHUNK.min(capacity - offset)).unwrap_or(usize::MAX);
        let chunk = &mut chunk[..length];
        system.read_exact_at(chunk, offset).map_err(|error| Error::Io { path: path.display().to_string(), error })?;
        writer.write(offset, chunk)?;
        offset += length as u64;
    }
    Ok(())
}
