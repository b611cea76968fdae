//! The files that the configuration names: what they are, and of certificates who they name and until when. Never their contents.
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::settings::Settings;

/// Most bytes that are read of a certificate's file.
const MOST: u64 = 1 << 20;

pub(super) fn told(settings: &Settings) -> String {
    let mut text = String::new();
    for (key, path, certificate) in settings.files() {
        text.push_str(&format!("{key} {}: {}\n", path.display(), facts(&path)));
        if certificate {
            text.push_str(&certificates(&path));
        }
    }
    text
}

fn facts(path: &Path) -> String {
    match fs::metadata(path) {
        Err(error) => format!("{error}"),
        Ok(of) => format!(
            "{} mode {:o} owner {}:{} {} bytes, changed {}",
            if of.is_file() { "file" } else { "no file" },
            of.permissions().mode() & 0o7777,
            of.uid(),
            of.gid(),
            of.len(),
            jiff::Timestamp::from_second(of.mtime()).map(|at| at.to_string()).unwrap_or_default()
        ),
    }
}

fn certificates(path: &Path) -> String {
    let mut pem = Vec::new();
    let regular = fs::metadata(path).is_ok_and(|of| of.is_file());
    if !regular || File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut pem)).is_err() {
        return String::new();
    }
    let one = |der: Result<CertificateDer<'_>, _>| match der {
        Ok(der) => X509Certificate::from_der(&der)
            .map_or_else(|_| "  not a certificate\n".to_owned(), |(_, certificate)| of_certificate(&certificate)),
        Err(_) => "  not PEM\n".to_owned(),
    };
    CertificateDer::pem_slice_iter(&pem).map(one).collect()
}

fn of_certificate(certificate: &X509Certificate<'_>) -> String {
    let validity = certificate.validity();
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    format!(
        "  subject {}; issuer {}; {} to {}; CA {}; names {}\n",
        certificate.subject().to_string().escape_debug(),
        certificate.issuer().to_string().escape_debug(),
        validity.not_before,
        validity.not_after,
        certificate.is_ca(),
        names.escape_debug()
    )
}
