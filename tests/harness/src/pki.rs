//! Certificates of a scene: a CA with a server and a client certificate, and a stranger whose CA nobody trusts.
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Files in one folder: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, `stranger.pem`, `stranger.key`.
#[derive(Debug, Clone)]
pub struct Pki {
    pub dir: PathBuf,
}

impl Pki {
    /// `names`: DNS names and addresses of the server.
    pub fn create(dir: &Path, names: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let this = Self { dir: dir.to_owned() };
        let ca = authority("hotadd demo CA")?;
        fs::write(this.file("ca.pem"), ca.0.clone())?;
        this.issue(&ca.1, "server", names, ExtendedKeyUsagePurpose::ServerAuth)?;
        this.issue(&ca.1, "client", &["controller"], ExtendedKeyUsagePurpose::ClientAuth)?;
        let foreign = authority("another CA")?;
        this.issue(&foreign.1, "stranger", &["controller"], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(this)
    }

    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn issue(
        &self,
        ca: &Issuer<'static, KeyPair>,
        name: &str,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<()> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        fs::write(self.file(&format!("{name}.pem")), params.signed_by(&key, ca)?.pem())?;
        let path = self.file(&format!("{name}.key"));
        fs::write(&path, key.serialize_pem())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

fn authority(name: &str) -> Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}
