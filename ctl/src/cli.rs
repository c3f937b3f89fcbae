//! The command line.

use std::{
    env::{self, VarError},
    io::IsTerminal as _,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::bail;
use benches::{bench::BenchOptions, demo::DemoOptions};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use dataplane::xsk::SocketMode;
use serde::Serialize;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use xdp_redirect::XdpMode;

use crate::config::{DEFAULT_SOCKET, IndexList, PriorityChoice, Queues};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "katran-xsk",
    version,
    propagate_version = true,
    about = "Layer-4 load balancer on AF_XDP, compatible with Katran",
    after_help = "Exit codes: 0 success, 1 failure (the reason is on standard error), 2 wrong usage, \
                  141 nobody reads standard output any more"
)]
pub struct Cli {
    /// Log more; twice for every detail. A level or filters in `KATRAN_XSK_LOG`, as in
    /// `katran_xsk=debug`, win
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Balance until SIGTERM or SIGINT; SIGHUP reads the configuration again
    Run(RunArgs),
    /// Validate a configuration and print what it means
    Check(CheckArgs),
    /// Run a capture through the forwarder, without sockets or privileges
    Replay(ReplayArgs),
    /// Manage a running balancer interactively
    Shell(ShellArgs),
    /// Send one command to a running balancer
    Ctl(CtlArgs),
    /// Strip tunnels on a real server and hand the inner packets to its stack
    Decap(DecapArgs),
    /// Build a lab of network namespaces and balance real connections in it
    Demo(DemoOptions),
    /// Measure what a decision costs and what the wire carries, beside the in-kernel balancer
    Bench(BenchOptions),
}

/// Arguments of `run`. Those that are given win over the configuration.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file; without one the balancer starts empty and is filled through its socket
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Network interface
    #[arg(short, long, value_name = "NAME")]
    pub iface: Option<String>,
    /// Where packets are decided: by workers behind `AF_XDP` sockets, or wholly in the kernel
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    pub datapath: DatapathChoice,
    /// RX queues, one worker each: 0-15, 0,2,4-7 or all
    #[arg(short, long, value_name = "LIST")]
    pub queues: Option<Queues>,
    /// How sockets share memory with the driver: auto, zero-copy or copy
    #[arg(long, value_name = "MODE")]
    pub mode: Option<SocketMode>,
    /// Where the XDP program runs: auto, native or generic
    #[arg(long, value_name = "MODE")]
    pub xdp_mode: Option<XdpMode>,
    /// CPUs of the workers in the order of the queues: 0-15 or 0,2,4-7
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<IndexList>,
    /// How the scheduler ranks the workers: auto, rt (before all ordinary threads) or normal
    #[arg(long, value_name = "PRIORITY")]
    pub priority: Option<PriorityChoice>,
    /// Admin socket [default: /run/katran-xsk.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Where packets are decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DatapathChoice {
    /// In workers behind `AF_XDP` sockets
    #[default]
    Xsk,
    /// In the kernel, by the XDP program
    Kernel,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Datapath that is to run it; `kernel` refuses what it cannot do
    #[arg(long, value_name = "WHERE", value_enum, default_value_t)]
    pub datapath: DatapathChoice,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Configuration file; of the section about the interface only `next_hop_mac` is used
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Capture to read (pcap or pcapng, Ethernet)
    #[arg(long = "in", value_name = "CAPTURE")]
    pub input: PathBuf,
    /// Capture to write (pcap): the frames that were transmitted or passed
    #[arg(long = "out", value_name = "CAPTURE")]
    pub output: PathBuf,
    /// Verdicts to write, one JSON object per packet and line
    #[arg(long, value_name = "FILE")]
    pub verdicts: PathBuf,
}

/// Arguments of `ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// Admin socket of the balancer
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print the balancer's answers as JSON, one line each
    #[arg(long)]
    pub json: bool,
    /// Seconds in which an answer must be there
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub timeout: Duration,
    /// Repeat a `show` command every so many seconds, with rates from the second time on
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub watch: Option<Duration>,
    /// Command and its words, or all of it as one word; `help` lists the commands
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<String>,
}

/// Arguments of `shell`.
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Admin socket of the balancer
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print the balancer's answers as JSON, one line each
    #[arg(long)]
    pub json: bool,
    /// Seconds in which an answer must be there
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub timeout: Duration,
    /// When standard input is a script: go on after a command that failed
    #[arg(long)]
    pub keep_going: bool,
}

/// Arguments of `decap`.
#[derive(Debug, Args)]
pub struct DecapArgs {
    /// Network interface on which tunnels arrive
    #[arg(short, long, value_name = "NAME")]
    pub iface: String,
    /// UDP port of GUE; 0 leaves GUE alone
    #[arg(long, value_name = "PORT", default_value_t = crate::config::DEFAULT_GUE_PORT)]
    pub gue_port: u16,
    /// Outer destinations to accept; left out: every address of this host, followed as it changes
    #[arg(
        long = "destination",
        value_name = "ADDRESS",
        conflicts_with = "any_destination"
    )]
    pub destinations: Vec<IpAddr>,
    /// Accept every outer destination
    #[arg(long)]
    pub any_destination: bool,
    /// Where the XDP program runs: auto, native or generic
    #[arg(long, value_name = "MODE", default_value_t = XdpMode::Auto)]
    pub xdp_mode: XdpMode,
    /// Print the counters every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub interval: Option<Duration>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err("give a whole number of seconds, 1 or more".into()),
    }
}

/// Takes log filters.
const LOG: &str = "KATRAN_XSK_LOG";
const LOG_REMEDY: &str = "give error, warn, info, debug or trace, or filters with commas between them, as katran_xsk=debug";
/// What logs under a name of its own.
const CRATES: [&str; 3] = ["katran_xsk", "dataplane", "xdp_redirect"];

/// Sends events to standard error: what an operator wants to know, or more with `verbose`.
///
/// # Errors
///
/// `KATRAN_XSK_LOG` holds something else than filters.
pub fn init_logging(verbose: u8) -> anyhow::Result<()> {
    let default = match verbose {
        0 => "warn,katran_xsk=info,dataplane=info,xdp_redirect=info",
        1 => "info,katran_xsk=debug,dataplane=debug,xdp_redirect=debug",
        _ => "debug",
    };
    let filter = match env::var(LOG) {
        Ok(text) if !text.trim().is_empty() => filter(&text)?,
        Ok(_) | Err(VarError::NotPresent) => default.into(),
        Err(error @ VarError::NotUnicode(_)) => bail!("{LOG}: {error}; {LOG_REMEDY}"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
}

fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let invalid = |problem: &str| {
        anyhow::anyhow!("{LOG}: {text:?} is not a log filter: {problem}; {LOG_REMEDY}")
    };
    // A word by itself may be a target, of which everything is logged then: a mistyped level is one.
    let is_known = |word: &str| {
        word.contains(['=', '[', '{'])
            || word.parse::<LevelFilter>().is_ok()
            || CRATES.iter().any(|name| word.starts_with(name))
    };
    let words = text.split(',').map(str::trim);
    if let Some(word) = words
        .filter(|word| !word.is_empty())
        .find(|word| !is_known(word))
    {
        return Err(invalid(&format!(
            "`{word}` is neither a level nor a part of the program"
        )));
    }
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| invalid(&error.to_string()))
}
