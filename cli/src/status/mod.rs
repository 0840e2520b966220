//! `broky status`: one node's word on itself and on the cluster, and each other node's on itself.
//!
//! Who is in the cluster, and who leads and holds what, any node knows. How far behind a node is, and what it is busy
//! with, only that node knows, so each one that counts as alive is asked, at the address in the cluster map.

mod gather;
mod model;
mod show;

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::{Value, to_value};

use self::gather::gather;
pub(crate) use self::model::{Node, Status};
use self::show::show;
use crate::admin::{get, probe};
use crate::args::StatusArgs;
use crate::exit::{FAILED, IO_ERROR, OrExit as _, UNAVAILABLE, fail};

const NO_STATUS: &str = "the node's answer is not a status";

/// Asks a node how it and its cluster are, and shows it.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    if args.ready {
        return ready(args);
    }
    let body = fetch_body(&args.admin).or_exit(UNAVAILABLE)?;
    let status: Status = serde_json::from_str(&body).context(NO_STATUS)?;
    let facts = gather(&status, &args.admin);
    let mut out = std::io::stdout().lock();
    let shown = if args.json {
        let mut object: Value = serde_json::from_str(&body).context(NO_STATUS)?;
        let nodes = object.pointer_mut("/cluster/nodes").and_then(Value::as_array_mut);
        for (node, facts) in nodes.into_iter().flatten().zip(&facts) {
            if let (Some(node), Value::Object(facts)) = (node.as_object_mut(), to_value(facts)?) {
                node.extend(facts);
            }
        }
        writeln!(out, "{object}")
    } else {
        show(&mut out, &status, &facts)
    };
    // What is left in the buffer would be lost in silence at the end.
    shown.and_then(|()| out.flush()).or_exit(IO_ERROR)
}

/// Asks a node whether it is ready. Where there is no shell, this is the probe.
fn ready(args: &StatusArgs) -> anyhow::Result<()> {
    let no_answer = || format!("no node answers on {}", args.admin);
    let answer = probe(&args.admin, "/readyz").with_context(no_answer).or_exit(UNAVAILABLE)?;
    let words = answer.body.trim();
    match answer.status {
        200 => writeln!(std::io::stdout(), "{words}").or_exit(IO_ERROR),
        503 => Err(fail(FAILED, format!("not ready: {words}"))),
        status => Err(fail(UNAVAILABLE, format!("{}: status {status}: {words}", no_answer()))),
    }
}

/// What a node says of itself and of its cluster.
pub(crate) fn fetch(admin: &str) -> anyhow::Result<Status> {
    serde_json::from_str(&fetch_body(admin)?).context(NO_STATUS)
}

fn fetch_body(admin: &str) -> anyhow::Result<String> {
    get(admin, "/status").with_context(|| format!("no node answers on {admin}"))
}
