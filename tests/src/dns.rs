//! Names of Services: CoreDNS with its Kubernetes plugin, at the address that every program of the network namespace asks
//! (`tests/in-namespace.sh`).

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::client::Client;
use crate::control_plane::ControlPlane;
use crate::netns::memory;
use crate::process::Program;
use crate::tools::tool;

/// The address in the namespace's `/etc/resolv.conf`; no test's network holds it.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 53));
/// The port where it says that it has listed all Services.
const READY_PORT: u16 = 8181;
/// How long it may take until then. About five times what was seen on two busy cores.
const READY_DEADLINE: Duration = Duration::from_secs(30);
const READY_LOOK: Duration = Duration::from_millis(50);

/// A running server. It ends with the process.
struct Dns {
    _program: Program,
    _folder: TempDir,
}

/// Sees to it that names of the shared control plane's Services resolve, `NAME.NAMESPACE.svc.cluster.local`, from the first
/// call on.
pub async fn serve() -> Result<()> {
    static SERVER: OnceCell<Dns> = OnceCell::const_new();
    SERVER.get_or_try_init(start).await.map(|_| ())
}

async fn start() -> Result<Dns> {
    let plane = ControlPlane::shared().await?;
    let folder = tempfile::Builder::new().prefix("dns-").tempdir_in(memory()?)?;
    let corefile = folder.path().join("Corefile");
    std::fs::write(&corefile, configuration(plane.kubeconfig()))?;
    let mut command = Command::new(tool("coredns").await?);
    command.arg("-conf").arg(&corefile);
    let mut program = Program::keep("coredns", command, folder.path()).await?;
    let (client, url) = (Client::new(), format!("http://{ADDRESS}:{READY_PORT}/ready"));
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        program.must_run()?;
        let answer = client.get(&url, &[]).await;
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return Ok(Dns { _program: program, _folder: folder });
        }
        ensure!(Instant::now() < deadline, "never ready: {answer:?}\n{}", program.log());
        tokio::time::sleep(READY_LOOK).await;
    }
}

/// Its configuration, for an administrator's kubeconfig. Answers are kept for no longer than a change may take to show,
/// and there are no other names.
fn configuration(kubeconfig: &Path) -> String {
    format!(
        "cluster.local:53 {{
    bind {ADDRESS}
    errors
    ready {ADDRESS}:{READY_PORT}
    kubernetes cluster.local {{
        kubeconfig {} test
        ttl 1
    }}
}}
.:53 {{
    bind {ADDRESS}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
",
        kubeconfig.display()
    )
}
