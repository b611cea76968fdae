//! The configuration, the files that it names and those beside the journal: what they are, and of certificates who they name and until when.
//! Never their contents.
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{bound, settings::Settings};

/// Most bytes that are read of a certificate's file.
const MOST: u64 = 1 << 20;
/// More is no state directory.
const ENTRIES: usize = 1000;

pub(super) fn told(config: &Path, settings: Option<&Settings>, state_dir: &Path) -> String {
    let mut text = format!("configuration {}: {}\n", config.display(), facts(config));
    text.push_str(&format!("state_dir {}: {}\n", state_dir.display(), facts(state_dir)));
    for entry in fs::read_dir(state_dir).into_iter().flatten().filter_map(Result::ok).take(ENTRIES) {
        // A copy of a damaged journal has its name and time.
        text.push_str(&format!("  {:?}: {}\n", entry.file_name(), facts(&entry.path())));
    }
    for (key, path, certificate) in settings.map(Settings::files).unwrap_or_default() {
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
            if of.is_dir() {
                "folder"
            } else if of.is_file() {
                "file"
            } else {
                "neither file nor folder"
            },
            of.permissions().mode() & 0o7777,
            of.uid(),
            of.gid(),
            of.len(),
            jiff::Timestamp::from_second(of.mtime()).map(|at| at.to_string()).unwrap_or_default()
        ),
    }
}

fn certificates(path: &Path) -> String {
    let Ok(pem) = bound::bytes(path, MOST) else { return String::new() };
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
