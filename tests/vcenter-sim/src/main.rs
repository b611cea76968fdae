//! vcenter-sim as a program: reads an inventory, prints one JSON line when ready, stops on SIGTERM or SIGINT.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use vcenter_sim::{Backend, Inventory, Options, Profile, start};

/// A strict vSphere simulator. Control API: tests/vcenter-sim/CONTROL.md.
#[derive(Debug, Parser)]
struct Args {
    /// Inventory as JSON.
    #[arg(long)]
    inventory: PathBuf,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Unix socket of the control API.
    #[arg(long)]
    control: PathBuf,
    /// Folder for redo logs and flattened chains.
    #[arg(long)]
    work: PathBuf,
    /// none, loop:PROXY, loop-direct:PROXY or qemu:PROXY:QMPSOCKET.
    #[arg(long, default_value = "none", value_parser = Backend::parse)]
    backend: Backend,
    /// More names or addresses for the certificate.
    #[arg(long)]
    san: Vec<String>,
    #[arg(long, default_value = "administrator@vsphere.local")]
    user: String,
    /// File whose first line is the password.
    #[arg(long)]
    password_file: PathBuf,
    #[arg(long, default_value = "8.0.2.0")]
    api_version: String,
    /// Writes the CA certificate here.
    #[arg(long)]
    cert_out: Option<PathBuf>,
    /// Writes every request and answer into this folder.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Document of a survey (hotaddctl survey --out): what of it can be replayed is, its API version in place of --api-version.
    #[arg(long)]
    profile: Option<PathBuf>,
}

async fn run(args: Args) -> Result<()> {
    let text = std::fs::read_to_string(&args.inventory).with_context(|| args.inventory.display().to_string())?;
    let inventory: Inventory = serde_json::from_str(&text).with_context(|| args.inventory.display().to_string())?;
    let password =
        std::fs::read_to_string(&args.password_file).with_context(|| args.password_file.display().to_string())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let running = start(Options {
        listen: args.listen,
        san: args.san,
        user: args.user,
        password: password.lines().next().unwrap_or("").to_owned(),
        api_version: args.api_version,
        inventory,
        work_dir: args.work,
        control: args.control,
        backend: args.backend,
        dump_dir: args.dump,
        profile: args.profile.as_deref().map(Profile::read).transpose()?.unwrap_or_default(),
    })
    .await?;
    if let Some(out) = &args.cert_out {
        std::fs::write(out, &running.ca_pem).with_context(|| out.display().to_string())?;
    }
    let ready = serde_json::json!({"url": running.url(), "ca": running.ca_pem, "sha256": running.cert_sha256});
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{ready}")?;
    stdout.flush()?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    running.shutdown().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            let _ = writeln!(std::io::stderr(), "vcenter-sim: {e:#}");
            ExitCode::FAILURE
        }
    }
}
