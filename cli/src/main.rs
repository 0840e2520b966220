//! The `broky` command.

mod admin;
mod args;
mod bench;
mod demo;
mod exit;
mod nodes;
mod push;
mod serve;
mod status;
mod sub;
mod units;

use clap::Parser as _;

use args::{Args, Command};

/// The system's allocator gives large buffers back to the kernel at once and has to have them zeroed again for the next
/// batch; that alone takes a tenth of a core under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let outcome = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Push(args) => push::run(&args),
        Command::Sub(args) => sub::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Drain(args) => nodes::drain(&args),
        Command::Forget(args) => nodes::forget(&args),
        Command::Bench(args) => bench::run(&args),
    };
    exit::code_of(outcome)
}
