//! Writes every request that the client can make, at several API versions, into the folder named by HOTADD_DUMP_DIR, one
//! file each: `<number>-<version>-<method>-req.xml`. A type checker outside reads them (tests/README.md). Without the variable
//! the requests are made all the same, so that none can break unseen.

#![allow(clippy::unwrap_used, reason = "tests, helpers included")]

mod support;

use std::path::PathBuf;

use hotadd_vsphere::Client;
use support::{Server, vim};

#[tokio::test]
async fn every_request_at_every_kind_of_version() {
    let folder = std::env::var_os("HOTADD_DUMP_DIR").map(PathBuf::from);
    if let Some(folder) = &folder {
        std::fs::create_dir_all(folder).unwrap();
    }
    for version in ["6.5", "6.7", "7.0.3.0", "8.0.2.0", "9.1.0.0"] {
        let server = Server::start(move |seen| vim::happy(seen, version, &[])).await;
        let client = Client::connect(server.config()).await.unwrap();
        vim::drive_all(&client).await;
        let seen = server.seen.lock().unwrap();
        let requests = seen.iter().filter(|s| !s.op.is_empty());
        let mut count = 0;
        for (number, request) in requests.enumerate() {
            assert_eq!(request.action, format!("\"urn:vim25/{version}\""));
            count += 1;
            if let Some(folder) = &folder {
                let name = format!("{number:04}-{version}-{}-req.xml", request.op);
                std::fs::write(folder.join(name), &request.body).unwrap();
            }
        }
        assert!(count > 30, "{count} requests at {version}");
    }
}
