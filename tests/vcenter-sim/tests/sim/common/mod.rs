//! A raw SOAP client for the simulator's own tests: text in, text out, no library of ours in between.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::header::{COOKIE, SET_COOKIE};
use serde_json::{Value, json};
use vcenter_sim::control::Control;
use vcenter_sim::{Inventory, Options, Running, start};

pub(crate) struct Lab {
    pub running: Option<Running>,
    pub http: reqwest::Client,
    pub cookie: String,
    pub version: String,
    pub ctl: Control,
    pub dir: tempfile::TempDir,
}

pub(crate) fn inventory(dir: &Path) -> Value {
    json!({
        "hosts": [{"name": "esx1"}],
        "datastores": [{"name": "ds1", "dir": dir.join("ds1")}, {"name": "far", "dir": dir.join("far"), "accessible": false}],
        "vms": [
            {"name": "proxy", "controllers": [{"bus": 0, "pci_slot": 160}, {"bus": 1, "pci_slot": 192}],
             "disks": [{"bus": 0, "unit": 0, "capacity": 1048576}, {"bus": 1, "unit": 0, "capacity": 1048576}]},
            {"name": "web", "disks": [{"capacity": 4194304}]},
            {"name": "off", "power": "off", "disks": [{"capacity": 1048576}]},
            {"name": "old", "snapshots": 1, "disks": [{"capacity": 4194304}]},
            {"name": "gone", "disks": [{"path": "[far] gone/gone.vmdk"}]}
        ]
    })
}

impl Lab {
    pub(crate) async fn new() -> Lab {
        Lab::with(|_, _| {}).await
    }

    pub(crate) async fn with(edit: impl FnOnce(&mut Options, &mut Value)) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let mut opt = Options::in_dir(dir.path());
        let mut inv = inventory(dir.path());
        edit(&mut opt, &mut inv);
        opt.inventory = serde_json::from_value::<Inventory>(inv).unwrap();
        let version = opt.api_version.clone();
        let running = start(opt).await.unwrap();
        // Another crate of the test build may have installed the provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(running.ca_pem.as_bytes()).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
        let ctl = Control::connect(&running.control).await.unwrap();
        let mut lab = Lab { running: Some(running), http, cookie: String::new(), version, ctl, dir };
        lab.login().await;
        lab
    }

    pub(crate) async fn login(&mut self) {
        self.cookie.clear();
        let args = "<userName>administrator@vsphere.local</userName><password>secret</password>";
        let (_, text) = self.call("SessionManager", "SessionManager", "Login", args).await.unwrap();
        assert!(text.contains("<LoginResponse"), "{text}");
    }

    pub(crate) async fn post(&mut self, action: &str, body: String) -> Result<(u16, String), reqwest::Error> {
        let url = self.running.as_ref().unwrap().url();
        let mut req = self.http.post(url).header("SOAPAction", action).body(body);
        if !self.cookie.is_empty() {
            req = req.header(COOKIE, &self.cookie);
        }
        let answer = req.send().await?;
        if let Some(c) = answer.headers().get(SET_COOKIE) {
            // The whole line goes back, as pyvmomi does it.
            self.cookie = c.to_str().unwrap().to_owned();
        }
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    pub(crate) async fn call(
        &mut self,
        ty: &str,
        id: &str,
        method: &str,
        args: &str,
    ) -> Result<(u16, String), reqwest::Error> {
        let action = format!("urn:vim25/{}", self.version);
        self.post(&action, envelope(ty, id, method, args)).await
    }

    pub(crate) async fn ok(&mut self, ty: &str, id: &str, method: &str, args: &str) -> String {
        let (status, text) = self.call(ty, id, method, args).await.unwrap();
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The fault's type.
    pub(crate) async fn fault(&mut self, ty: &str, id: &str, method: &str, args: &str) -> (String, String) {
        let (status, text) = self.call(ty, id, method, args).await.unwrap();
        assert_eq!(status, 500, "{text}");
        let detail = &text[text.find("<detail>").unwrap()..];
        (between(detail, "xsi:type=\"", "\"").to_owned(), text)
    }

    pub(crate) async fn vm(&mut self, name: &str) -> String {
        let state = self.ctl.call(json!({"cmd": "state"})).await.unwrap();
        let vms = state["vms"].as_array().unwrap();
        vms.iter().find(|v| v["name"] == name).unwrap()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn fetch(&mut self, ty: &str, id: &str, prop: &str) -> String {
        let text = self.ok(ty, id, "Fetch", &format!("<prop>{prop}</prop>")).await;
        text.split_once("FetchResponse").unwrap().1.to_owned()
    }

    /// Runs a task to its end: Ok(TaskInfo) or Err(TaskInfo).
    pub(crate) async fn task(&mut self, ty: &str, id: &str, method: &str, args: &str) -> Result<String, String> {
        let text = self.ok(ty, id, method, args).await;
        let task = between(&text, "<returnval type=\"Task\">", "<").to_owned();
        self.wait(&task).await
    }

    pub(crate) async fn wait(&mut self, task: &str) -> Result<String, String> {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            let info = self.fetch("Task", task, "info").await;
            if info.contains("<state>success<") {
                return Ok(info);
            }
            if info.contains("<state>error<") {
                return Err(info);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("task {task} did not end");
    }

    pub(crate) async fn reconfig(&mut self, vm: &str, spec: &str) -> Result<String, String> {
        let id = self.vm(vm).await;
        self.task("VirtualMachine", &id, "ReconfigVM_Task", &format!("<spec>{spec}</spec>")).await
    }

    pub(crate) async fn snapshot(&mut self, vm: &str) -> String {
        let id = self.vm(vm).await;
        let args = "<name>s</name><memory>false</memory><quiesce>false</quiesce>";
        let info = self.task("VirtualMachine", &id, "CreateSnapshot_Task", args).await.unwrap();
        between(&info, "<result type=\"VirtualMachineSnapshot\" xsi:type=\"ManagedObjectReference\">", "<").to_owned()
    }

    pub(crate) async fn shutdown(mut self) {
        let counters = self.ctl.counters().await.unwrap();
        assert_eq!(counters["problems"], json!([]), "answers disagree with the type table");
        self.running.take().unwrap().shutdown().await;
    }
}

pub(crate) fn envelope(ty: &str, id: &str, method: &str, args: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><s:Body><{method} xmlns=\"urn:vim25\">\
         <_this type=\"{ty}\">{id}</_this>{args}</{method}></s:Body></s:Envelope>"
    )
}

pub(crate) fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let at = text.find(from).unwrap_or_else(|| panic!("no {from} in {text}")) + from.len();
    let rest = &text[at..];
    &rest[..rest.find(to).unwrap_or(rest.len())]
}

pub(crate) fn add(path: &str, ctl: i32, unit: i32) -> String {
    add_mode(path, ctl, unit, "independent_nonpersistent")
}

pub(crate) fn add_mode(path: &str, ctl: i32, unit: i32, mode: &str) -> String {
    let unit = if unit < 0 { String::new() } else { format!("<unitNumber>{unit}</unitNumber>") };
    format!(
        "<deviceChange><operation>add</operation><device xsi:type=\"VirtualDisk\"><key>-1</key>\
         <backing xsi:type=\"VirtualDiskFlatVer2BackingInfo\"><fileName>{path}</fileName><diskMode>{mode}</diskMode></backing>\
         <controllerKey>{ctl}</controllerKey>{unit}<capacityInKB>0</capacityInKB></device></deviceChange>"
    )
}

pub(crate) fn remove(key: i32) -> String {
    format!(
        "<deviceChange><operation>remove</operation><device xsi:type=\"VirtualDisk\"><key>{key}</key>\
         <capacityInKB>0</capacityInKB></device></deviceChange>"
    )
}
