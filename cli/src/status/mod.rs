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
use crate::admin::get;
use crate::args::StatusArgs;
use crate::exit::{IO_ERROR, OrExit as _, UNAVAILABLE};

const NO_STATUS: &str = "the node's answer is not a status";

/// Asks a node how it and its cluster are, and shows it.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
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

/// What a node says of itself and of its cluster.
pub(crate) fn fetch(admin: &str) -> anyhow::Result<Status> {
    serde_json::from_str(&fetch_body(admin)?).context(NO_STATUS)
}

fn fetch_body(admin: &str) -> anyhow::Result<String> {
    get(admin, "/status").with_context(|| format!("no node answers on {admin}"))
}
