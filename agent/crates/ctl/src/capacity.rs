//! The second half of `info`: what GetCapacity tells of controllers, datastores, and of what attaching cost here. Asks, never changes
//! anything.
use hotadd_api::v1::{ControllerCapacity, DatastoreCapacity, GetCapacityRequest, GetCapacityResponse};
use serde_json::json;

use crate::{
    backup::report,
    connect::Agent,
    error::Failure,
    output::{Output, bytes, clean, table},
};

pub(crate) async fn show(agent: &Agent, out: &Output) -> Result<(), Failure> {
    let capacity = agent.call(agent.proxy().get_capacity(GetCapacityRequest {})).await?;
    tell(&capacity, out);
    let rows: Vec<_> = capacity.controllers.iter().map(controller_row).collect();
    out.answer(&format!("\n{}", table(&["controller", "kind", "PCI", "free", "used", "state"], &rows)));
    out.answer("");
    match &capacity.datastores_unknown {
        Some(why) => out.answer(&clean(&format!("datastores: not known: {} {}", why.code, why.message))),
        None => {
            let rows: Vec<_> = capacity.datastores.iter().map(datastore_row).collect();
            let head = ["datastore", "free", "attached", "snapshots", "waiting"];
            out.section(&host(&capacity), &head, &rows);
        }
    }
    out.answer(&format!("\n{}", table(&["capacity", ""], &summary(&capacity))));
    Ok(())
}

fn host(capacity: &GetCapacityResponse) -> String {
    let name = if capacity.host_name.is_empty() { &capacity.host_moref } else { &capacity.host_name };
    clean(&format!("datastores that the host {name} sees"))
}

fn tell(capacity: &GetCapacityResponse, out: &Output) {
    for controller in &capacity.controllers {
        out.event(|| {
            json!({"event": "controller", "key": controller.key, "bus": controller.bus, "kind": controller.kind,
                "pci_address": controller.pci_address, "free_units": controller.free_units,
                "used_units": controller.used_units, "refused": controller.refused.as_ref().map(report::reason_json)})
        });
    }
    for store in &capacity.datastores {
        out.event(|| {
            json!({"event": "datastore", "moref": store.moref, "name": store.name, "free_bytes": store.free_bytes,
                "attached": store.attached, "snapshots": store.snapshots, "waiting": store.waiting})
        });
    }
    out.event(|| {
        json!({"event": "capacity", "free_slots": capacity.free_slots, "reserved_slots": capacity.reserved_slots,
            "host_moref": capacity.host_moref, "host_name": capacity.host_name,
            "datastores_unknown": capacity.datastores_unknown.as_ref().map(report::reason_json),
            "running_jobs": capacity.running_jobs, "open_sessions": capacity.open_sessions,
            "attach_seconds": capacity.attach_seconds, "detach_seconds": capacity.detach_seconds,
            "bytes_per_second": capacity.bytes_per_second})
    });
}

fn controller_row(controller: &ControllerCapacity) -> Vec<String> {
    vec![
        format!("scsi{}", controller.bus),
        controller.kind.clone(),
        controller.pci_address.clone(),
        controller.free_units.len().to_string(),
        controller.used_units.len().to_string(),
        controller.refused.as_ref().map_or_else(|| "ok".to_owned(), |r| format!("{} {}", r.code, r.message)),
    ]
}

fn datastore_row(store: &DatastoreCapacity) -> Vec<String> {
    let numbers = [store.attached, store.snapshots, store.waiting].map(|number| number.to_string());
    [store.name.clone(), bytes(store.free_bytes)].into_iter().chain(numbers).collect()
}

fn summary(capacity: &GetCapacityResponse) -> Vec<Vec<String>> {
    let measured = |value: Option<f64>, unit: &str| match value {
        Some(value) => format!("{value:.1} {unit}"),
        None => "never measured".to_owned(),
    };
    let reserved = match capacity.reserved_slots {
        0 => String::new(),
        kept => format!(", {kept} reserved"),
    };
    let rate = capacity.bytes_per_second.map(|rate| rate / 1e6);
    let rows = [
        ("free slots", format!("{}{reserved}", capacity.free_slots)),
        ("attach", measured(capacity.attach_seconds, "s")),
        ("detach", measured(capacity.detach_seconds, "s")),
        ("a hot-added disk", measured(rate, "MB/s")),
    ];
    rows.map(|(name, value)| vec![name.to_owned(), value]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_measured_is_no_zero() {
        let value = |capacity: &GetCapacityResponse, row: usize| summary(capacity)[row][1].clone();
        let new = GetCapacityResponse { free_slots: 3, ..GetCapacityResponse::default() };
        assert_eq!(
            (value(&new, 0), value(&new, 1), value(&new, 3)),
            ("3".into(), "never measured".into(), "never measured".into())
        );
        let known =
            GetCapacityResponse { reserved_slots: 2, attach_seconds: Some(4.26), bytes_per_second: Some(5e8), ..new };
        assert_eq!(
            (value(&known, 0), value(&known, 1), value(&known, 3)),
            ("3, 2 reserved".into(), "4.3 s".into(), "500.0 MB/s".into())
        );
    }
}
