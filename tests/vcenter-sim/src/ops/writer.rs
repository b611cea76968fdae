//! What the guest of a running VM does: writes that go to the top delta of a disk (or, told so, through to its parent).

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::Sim;
use crate::state::State;

/// Ranges that a writer rewrites, and how often.
#[derive(Clone, Debug)]
pub(crate) struct WriterSpec {
    pub vm: String,
    pub disk: String,
    /// (offset, length) in bytes.
    pub ranges: Vec<(u64, u64)>,
    pub interval: Duration,
}

impl WriterSpec {
    pub(crate) fn parse(v: &Value) -> Result<WriterSpec, String> {
        let text = |k: &str| v[k].as_str().map(str::to_owned).or_else(|| v[k].as_i64().map(|n| n.to_string()));
        let ranges = v["ranges"].as_array().ok_or("ranges missing")?;
        Ok(WriterSpec {
            vm: text("vm").ok_or("vm missing")?,
            disk: text("disk").unwrap_or_else(|| "0:0".into()),
            ranges: ranges.iter().filter_map(|r| Some((r[0].as_u64()?, r[1].as_u64()?))).collect(),
            interval: Duration::from_millis(v["interval_ms"].as_u64().unwrap_or(10)),
        })
    }
}

/// One write of the guest. Err tells why it did not happen.
pub(crate) fn write(s: &mut State, vm: &str, disk: &str, offset: u64, data: &[u8]) -> Result<String, String> {
    let id = s.find_vm(vm).ok_or("no such vm")?;
    let v = s.vm(&id).map_err(|f| f.text)?;
    let (_, d) = v.find_disk(disk).ok_or("no such disk")?;
    let mut target = d.path.clone();
    if s.knobs.write_through {
        let chain = s.store.chain(&target);
        target = chain.get(1).or(chain.first()).cloned().unwrap_or(target);
    }
    s.store.write(&target, offset, data).map_err(|e| e.to_string())?;
    Ok(target)
}

/// Rewrites the ranges with ever new patterns until told to stop. Returns the number of passes made.
pub(crate) async fn run(sim: Arc<Sim>, spec: WriterSpec, mut stop: tokio::sync::watch::Receiver<bool>) -> u64 {
    let mut pass = 0u64;
    while !*stop.borrow() {
        let (sim, job) = (Arc::clone(&sim), spec.clone());
        let pattern = u8::try_from(pass % 251 + 1).unwrap_or(1);
        let done = tokio::task::spawn_blocking(move || {
            for (at, len) in &job.ranges {
                let data = vec![pattern; usize::try_from(*len).unwrap_or(0)];
                if let Err(e) = write(&mut sim.lock(), &job.vm, &job.disk, *at, &data) {
                    tracing::warn!(error = e, vm = job.vm, "writer");
                }
            }
        });
        if done.await.is_err() {
            break;
        }
        pass += 1;
        let _ = tokio::time::timeout(spec.interval, stop.changed()).await;
    }
    pass
}
