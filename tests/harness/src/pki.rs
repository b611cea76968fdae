//! Certificates of a scene: CAs that go on issuing and revoking while it runs, server and client certificates, and a stranger whose CA nobody
//! trusts. A file that is written anew is put in place whole.
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// Until when lists say that they are good.
const LIST: Duration = Duration::from_secs(30 * 86_400);

/// Files in one folder: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`, `stranger.pem`, `stranger.key`, and what a test adds.
/// What only a CA needs is in the folder `authorities`.
#[derive(Debug, Clone)]
pub struct Pki {
    pub dir: PathBuf,
}

/// A certificate to be issued.
#[derive(Debug, Clone, Copy)]
pub struct Leaf<'a> {
    pub authority: &'a str,
    /// Of its files, without `.pem` and `.key`.
    pub file: &'a str,
    /// `DNS:…`, `URI:…`, `email:…`, `IP:…`; one without a kind is a host or an address.
    pub names: &'a [&'a str],
    pub server: bool,
    /// From now on; `None`: it does not end.
    pub lifetime: Option<Duration>,
}

impl Pki {
    /// `names`: DNS names and addresses of the server.
    pub fn create(dir: &Path, names: &[&str]) -> Result<Self> {
        let this = Self { dir: dir.to_owned() };
        fs::create_dir_all(this.authorities())?;
        this.authority("ca", "hotadd demo CA")?;
        let server = Leaf { authority: "ca", file: "server", names, server: true, lifetime: None };
        this.issue(&server)?;
        this.client("client", &["controller"])?;
        this.authority("another-ca", "another CA")?;
        this.issue(&Leaf {
            authority: "another-ca",
            file: "stranger",
            names: &["controller"],
            server: false,
            ..server
        })?;
        Ok(this)
    }

    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn authorities(&self) -> PathBuf {
        self.dir.join("authorities")
    }

    /// A CA: `FILE.pem`.
    pub fn authority(&self, file: &str, name: &str) -> Result<()> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        self.put(&format!("{file}.pem"), &params.self_signed(&key)?.pem())?;
        Ok(fs::write(self.authorities().join(file), key.serialize_pem())?)
    }

    fn issuer(&self, file: &str) -> Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::from_pem(&fs::read_to_string(self.authorities().join(file))?)?;
        let certificate = fs::read_to_string(self.file(&format!("{file}.pem")))?;
        Ok(Issuer::from_ca_cert_pem(&certificate, key)?)
    }

    /// A client's certificate of the scene's CA, without an end.
    pub fn client(&self, file: &str, names: &[&str]) -> Result<()> {
        self.issue(&Leaf { authority: "ca", file, names, server: false, lifetime: None })
    }

    /// Issues a certificate, in place of what its files held.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Result<()> {
        let usage = if leaf.server { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth };
        self.issue_for(leaf, vec![usage])
    }

    /// The same for one that serves and asks others.
    pub fn issue_for_both(&self, leaf: &Leaf<'_>) -> Result<()> {
        self.issue_for(leaf, vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue_for(&self, leaf: &Leaf<'_>, usages: Vec<ExtendedKeyUsagePurpose>) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = leaf.names.iter().map(|name| san(name)).collect::<Result<_>>()?;
        params.distinguished_name.push(DnType::CommonName, leaf.file);
        params.extended_key_usages = usages;
        // Positive, of eight bytes, and no other certificate's.
        let serial = 1 << 61 | (uuid::Uuid::new_v4().as_u64_pair().0 >> 4);
        params.serial_number = Some(SerialNumber::from(serial));
        if let Some(lifetime) = leaf.lifetime {
            params.not_after = date_time_ymd(1970, 1, 1) + since_epoch()? + lifetime;
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer(leaf.authority)?)?.pem();
        fs::write(self.authorities().join(format!("{}.serial", leaf.file)), serial.to_string())?;
        self.put(&format!("{}.pem", leaf.file), &certificate)?;
        self.put(&format!("{}.key", leaf.file), &key.serialize_pem())
    }

    /// The CA's list, in `FILE`: what was issued last under these names holds no longer.
    pub fn revoke(&self, authority: &str, file: &str, revoked: &[&str]) -> Result<()> {
        let now = date_time_ymd(1970, 1, 1) + since_epoch()?;
        let entry = |name: &&str| -> Result<RevokedCertParams> {
            let serial: u64 = fs::read_to_string(self.authorities().join(format!("{name}.serial")))?.parse()?;
            let serial_number = SerialNumber::from(serial);
            Ok(RevokedCertParams { serial_number, revocation_time: now, reason_code: None, invalidity_date: None })
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + LIST,
            crl_number: SerialNumber::from(since_epoch()?.as_secs()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.put(file, &params.signed_by(&self.issuer(authority)?)?.pem()?)
    }

    /// Puts a file in place, readable by its owner only.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        let beside = self.file(&format!(".{name}.new"));
        fs::write(&beside, text)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        Ok(fs::rename(&beside, self.file(name))?)
    }
}

fn since_epoch() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn san(name: &str) -> Result<SanType> {
    Ok(match name.split_once(':') {
        Some(("DNS", name)) => SanType::DnsName(name.try_into()?),
        Some(("URI", uri)) => SanType::URI(uri.try_into()?),
        Some(("email", address)) => SanType::Rfc822Name(address.try_into()?),
        Some(("IP", address)) => SanType::IpAddress(address.parse().context("address")?),
        Some(_) => bail!("{name:?} is of no known kind"),
        None => match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into()?),
        },
    })
}
