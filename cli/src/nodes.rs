//! `broky drain` and `broky forget`.

use anyhow::Context as _;

use crate::admin::{encode, post};
use crate::args::{DrainArgs, ForgetArgs};
use crate::exit::{FAILED, OrExit as _, UNAVAILABLE, fail};

/// Begins to empty a node.
pub(crate) fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let force = if args.force { "?force=true" } else { "" };
    decide(&args.admin, &format!("/nodes/{}/drain{force}", encode(&args.node)))?;
    eprintln!("draining {}; `broky status` shows what it still holds", args.node);
    Ok(())
}

/// Removes a node.
pub(crate) fn forget(args: &ForgetArgs) -> anyhow::Result<()> {
    decide(&args.admin, &format!("/nodes/{}/forget", encode(&args.node)))?;
    eprintln!("{} is forgotten", args.node);
    Ok(())
}

fn decide(admin: &str, path: &str) -> anyhow::Result<()> {
    let answer = post(admin, path).with_context(|| format!("no node answers on {admin}")).or_exit(UNAVAILABLE)?;
    match answer.status {
        200 => Ok(()),
        503 | 504 => Err(fail(UNAVAILABLE, answer.body.trim())),
        _ => Err(fail(FAILED, answer.body.trim())),
    }
}
