//! What the API server wrote down of the controller's requests. Only on the cluster of `cluster/up`.

use std::{
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::cluster::{Cluster, SYSTEM};

/// The audit log from one moment on.
pub struct Audit {
    file: PathBuf,
    from: u64,
}

impl Audit {
    /// Everything from now on.
    pub fn begin(cluster: &Cluster) -> Result<Self> {
        ensure!(cluster.own, "this looks into the API server's audit log, which can be done only on the cluster of e2e/cluster/up");
        let state = std::env::var_os("SLUICE_E2E_STATE").context("SLUICE_E2E_STATE is not set: e2e/cluster/enter sets it")?;
        let file = PathBuf::from(state).join("logs/audit.log");
        let from = std::fs::metadata(&file).with_context(|| format!("{}", file.display()))?.len();
        Ok(Self { file, from })
    }

    /// The requests of the controller that have come in since, in their order.
    pub fn of_controller(&self) -> Result<Vec<Value>> {
        let mut file = std::fs::File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let user = format!("system:serviceaccount:{SYSTEM}:sluice");
        // The last line may be half written; a line that does not name the user need not be parsed.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let entries = whole.lines().filter(|line| line.contains(&user)).map(serde_json::from_str::<Value>);
        let mut requests = entries.collect::<Result<Vec<_>, _>>().context("the audit log")?;
        requests.retain(|request| request["user"]["username"] == *user);
        Ok(requests)
    }
}

/// How long ago a request came in.
pub fn age(request: &Value) -> Option<Duration> {
    let at: Timestamp = request["requestReceivedTimestamp"].as_str()?.parse().ok()?;
    Duration::try_from(Timestamp::now().duration_since(at)).ok()
}

pub fn is_lease(request: &Value) -> bool {
    request["objectRef"]["resource"] == "leases"
}

/// A request in one line.
pub fn words(request: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {} {}", text(&request["requestReceivedTimestamp"]), text(&request["verb"]), text(&request["requestURI"]))
}
