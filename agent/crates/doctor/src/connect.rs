//! The way to vCenter: trust, account, and what a failure means. [`Vcenter`] reads and has no call that changes anything; the feature
//! `fix` takes the client out of it, nobody else does.
use std::{env, fs, path::PathBuf, time::Duration};

use hotadd_vsphere as vim;
use vim::ErrorKind;

use crate::{
    args::VcenterArgs,
    codes::{self, Code},
    secret,
};

/// One request and its answer; a large estate takes many of them.
const CALL: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(15);
/// No PEM file is larger.
const PEM_BYTES: u64 = 1 << 20;

/// Why nothing could be looked at, or nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", code.id)]
pub struct Trouble {
    pub code: Code,
    pub message: String,
}

impl Trouble {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Why a call of vCenter failed, as a code of the doctor.
    #[must_use]
    pub fn of(error: &vim::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Unreachable | ErrorKind::Tls | ErrorKind::Deadline => codes::UNREACHABLE,
            ErrorKind::Unauthorized | ErrorKind::LoginHeld => codes::LOGIN,
            _ => codes::ANSWER,
        };
        Self::new(code, chain(error))
    }
}

/// A message and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

/// A vCenter that is only read.
#[derive(Debug)]
pub struct Vcenter {
    pub(crate) client: vim::Client,
}

impl Vcenter {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`codes::USAGE`] for options and files, [`codes::UNREACHABLE`], [`codes::LOGIN`], [`codes::ANSWER`].
    pub async fn open(args: &VcenterArgs) -> Result<Self, Trouble> {
        let client = vim::Client::connect(config(args)?).await.map_err(|e| refused(&e))?;
        Ok(Self { client })
    }

    /// Ends the session; it would end by itself.
    pub async fn close(&self) {
        let _ = self.client.logout().await;
    }

    pub(crate) fn about(&self) -> &vim::About {
        self.client.about()
    }

    pub(crate) async fn now(&self) -> Result<jiff::Timestamp, vim::Error> {
        self.client.server_time().await
    }

    pub(crate) async fn all_vms(&self) -> Result<Vec<(vim::MoRef, String)>, vim::Error> {
        self.client.all_vms().await
    }

    pub(crate) async fn survey(&self, vms: &[vim::MoRef]) -> Result<Vec<vim::Surveyed>, vim::Error> {
        self.client.survey_vms(vms).await
    }

    pub(crate) async fn snapshot_devices(&self, snapshot: &vim::MoRef) -> Result<Vec<vim::Device>, vim::Error> {
        self.client.snapshot_devices(snapshot).await
    }

    pub(crate) async fn tasks(&self, tasks: &[vim::MoRef]) -> Result<Vec<vim::TaskInfo>, vim::Error> {
        self.client.tasks(tasks).await
    }

    pub(crate) async fn free_space(&self, stores: &[vim::MoRef]) -> Result<Vec<(String, u64)>, vim::Error> {
        self.client.free_space(stores).await
    }
}

/// Address, account, password and trust, as options and environment name them. Nothing is connected.
///
/// # Errors
/// [`codes::USAGE`].
pub fn config(args: &VcenterArgs) -> Result<vim::Config, Trouble> {
    let usage = |message: String| Trouble::new(codes::USAGE, message);
    let url = given(args.vcenter.as_ref(), "HOTADD_VCENTER").ok_or_else(|| usage("--vcenter is missing".into()))?;
    let user = given(args.user.as_ref(), "HOTADD_VCENTER_USER").ok_or_else(|| usage("--user is missing".into()))?;
    let trust = trust(args).map_err(usage)?;
    let password = secret::password(args, &user).map_err(usage)?;
    let mut config = vim::Config::new(url, user, password, trust);
    (config.request_timeout, config.connect_timeout) = (CALL, CONNECT);
    Ok(config)
}

/// Why a connection did not come about: an address that can't be used is the caller's, whatever else vCenter's or the network's.
#[must_use]
pub fn refused(error: &vim::Error) -> Trouble {
    match error.kind() {
        ErrorKind::Unsupported => Trouble::new(codes::USAGE, chain(error)),
        _ => Trouble::of(error),
    }
}

fn given(option: Option<&String>, variable: &str) -> Option<String> {
    option.cloned().or_else(|| env::var(variable).ok()).filter(|text| !text.is_empty())
}

fn trust(args: &VcenterArgs) -> Result<vim::Trust, String> {
    if let Some(pin) = args.vcenter_pin {
        return Ok(vim::Trust::Pin(pin));
    }
    let path = args.vcenter_ca.clone().or_else(|| env::var_os("HOTADD_VCENTER_CA").map(PathBuf::from));
    let path = path.ok_or("--vcenter-ca or --vcenter-pin is missing: a certificate is never believed unseen")?;
    let shown = path.display();
    let size = fs::metadata(&path).map_err(|e| format!("{shown}: {e}"))?.len();
    if size > PEM_BYTES {
        return Err(format!("{shown} holds {size} bytes: no PEM file"));
    }
    fs::read(&path).map(vim::Trust::Ca).map_err(|e| format!("{shown}: {e}"))
}
