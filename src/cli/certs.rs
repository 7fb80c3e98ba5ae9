//! `adit certs`: makes a certificate authority and certificates for nodes and agents, and shows what is in
//! certificate files.
//!
//! The command line runs it and prints what it writes to `out`. It never overwrites a file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};

use crate::tls::{ANY_NODE, Authority, NODE_NAME, Request, Summary, Usage, day, load_certificates};

/// Make certificates, and show what is in them.
#[derive(Debug, Args)]
pub(super) struct CertsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a certificate authority: DIR/ca.pem and DIR/ca.key.
    Ca(CaArgs),
    /// Make a node's certificate: DIR/OUT.pem and DIR/OUT.key.
    Node(NodeArgs),
    /// Make an agent's certificate: DIR/agent-NAME.pem and .key.
    Agent(AgentArgs),
    /// Show the certificates in files, with their pins.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct CaArgs {
    /// Folder to write to.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// Name of the authority, for people to read.
    #[arg(long, value_name = "NAME", default_value = "adit CA")]
    name: String,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// DNS names and IP addresses by which others reach the node.
    #[arg(value_name = "NAME|IP", required = true)]
    names: Vec<String>,
    /// Name of the node, which its peers hold it to; @any for any node.
    #[arg(long, value_name = "NAME", default_value = ANY_NODE)]
    node_id: String,
    /// Folder with ca.pem and ca.key, to write to as well.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// Name of the two files, without an extension.
    #[arg(long, value_name = "OUT", default_value = "node")]
    out: String,
    #[command(flatten)]
    lifetime: Lifetime,
}

#[derive(Debug, Args)]
struct AgentArgs {
    /// Name of the agent: letters, digits, hyphens and dots.
    #[arg(value_name = "NAME")]
    name: String,
    /// Folder with ca.pem and ca.key, to write to as well.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    #[command(flatten)]
    lifetime: Lifetime,
}

#[derive(Debug, Args)]
struct Lifetime {
    /// Days until the certificate ends.
    #[arg(long, value_name = "N", default_value_t = 397)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

impl Lifetime {
    fn duration(&self) -> Duration {
        DAY * u32::from(self.days)
    }
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// PEM files with certificates.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs `adit certs`, telling `out` what was written or found.
///
/// # Errors
///
/// What the user can set right, in a sentence: a file in the way, no authority, an impossible name, a file
/// without certificates.
pub(super) fn run(args: CertsArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    match args.command {
        Command::Ca(args) => ca(&args, out),
        Command::Node(args) => node(args, out),
        Command::Agent(args) => agent(args, out),
        Command::Show(args) => show(&args, out),
    }
}

fn ca(args: &CaArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.certs)
        .with_context(|| format!("the folder {} cannot be made", args.certs.display()))?;
    let (cert, key) = (args.certs.join("ca.pem"), args.certs.join("ca.key"));
    Authority::generate(&args.name)?.pem().write(&cert, &key)?;
    writeln!(out, "wrote {} (the authority's certificate: give it to all who connect)", cert.display())?;
    writeln!(out, "wrote {} (its private key: whoever has it can pose as any node)", key.display())?;
    Ok(())
}

fn node(args: NodeArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    ensure!(
        !args.out.is_empty() && !args.out.contains(['/', '\\']),
        "--out takes the name of a file, not a path: use --certs for the folder"
    );
    let request = Request {
        // A longer name does not fit there, and clients look at the alternative names only.
        common_name: args
            .names
            .iter()
            .find(|name| name.len() <= 64)
            .map_or("adit node", String::as_str)
            .to_owned(),
        names: args.names.into_iter().chain([format!("{NODE_NAME}{}", args.node_id)]).collect(),
        usage: Usage::Both,
        lifetime: args.lifetime.duration(),
    };
    issue(&args.certs, &args.out, &request, out)
}

fn agent(args: AgentArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let request = Request {
        common_name: args.name.clone(),
        names: vec![args.name.clone()],
        usage: Usage::Client,
        lifetime: args.lifetime.duration(),
    };
    issue(&args.certs, &format!("agent-{}", args.name), &request, out)
}

fn issue(dir: &Path, stem: &str, request: &Request, out: &mut dyn Write) -> anyhow::Result<()> {
    let (ca, ca_key) = (dir.join("ca.pem"), dir.join("ca.key"));
    if !ca.exists() && !ca_key.exists() {
        bail!(
            "there is no authority in {}: make one with `adit certs ca --certs {}`",
            dir.display(),
            dir.display()
        );
    }
    let issued = Authority::load(&ca, &ca_key)?.issue(request)?;
    let (cert, key) = (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}.key")));
    issued.write(&cert, &key)?;
    writeln!(out, "wrote {} (certificate for {})", cert.display(), request.names.join(", "))?;
    writeln!(out, "wrote {} (its private key: keep it secret)", key.display())?;
    Ok(())
}

fn show(args: &ShowArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut first = true;
    for file in &args.files {
        let certificates = load_certificates(file)?;
        for (index, certificate) in certificates.iter().enumerate() {
            let summary = Summary::of(certificate)
                .with_context(|| format!("certificate {} in {} cannot be read", index + 1, file.display()))?;
            if !std::mem::take(&mut first) {
                writeln!(out)?;
            }
            let position = match certificates.len() {
                1 => String::new(),
                count => format!(" ({} of {count})", index + 1),
            };
            writeln!(out, "{}{position}", file.display())?;
            describe(&summary, out)?;
        }
    }
    Ok(())
}

fn describe(summary: &Summary, out: &mut dyn Write) -> std::io::Result<()> {
    let role = if summary.authority { " (an authority)" } else { "" };
    let names = if summary.names.is_empty() { "-".to_owned() } else { summary.names.join(", ") };
    writeln!(out, "  subject  {}{role}", summary.subject)?;
    writeln!(out, "  names    {names}")?;
    writeln!(out, "  issuer   {}", summary.issuer)?;
    let (from, until) = (day(summary.not_before), day(summary.not_after));
    writeln!(out, "  valid    {from} to {until} ({})", remaining(summary.not_after))?;
    writeln!(out, "  pin      {}", summary.fingerprint)
}

fn remaining(end: SystemTime) -> String {
    // To the nearest day: a certificate made for 397 days is shown with 397 left.
    let days = |span: Duration| match (span + DAY / 2).as_secs() / DAY.as_secs() {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        n => format!("{n} days"),
    };
    match end.duration_since(SystemTime::now()) {
        Ok(left) => format!("{} left", days(left)),
        Err(past) => format!("ended {} ago", days(past.duration())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        certs: CertsArgs,
    }

    fn certs(dir: &Path, words: &[&str]) -> anyhow::Result<String> {
        let dir = dir.to_str().unwrap();
        let words = words.iter().map(|word| word.replace("DIR", dir));
        let line = Line::try_parse_from(std::iter::once("certs".to_owned()).chain(words))?;
        let mut out = Vec::new();
        run(line.certs, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn an_authority_a_node_and_an_agent_are_made_and_shown() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = &temporary.path().join("new");
        let told = certs(dir, &["ca", "--certs", "DIR", "--name", "Test CA"]).unwrap();
        assert!(told.contains("ca.pem") && told.contains("ca.key"), "{told}");
        certs(dir, &["node", "node.example.com", "192.0.2.1", "--certs", "DIR", "--days", "10"]).unwrap();
        certs(dir, &["agent", "press-7", "--certs", "DIR"]).unwrap();

        let shown = certs(dir, &["show", "DIR/ca.pem", "DIR/node.pem", "DIR/agent-press-7.pem"]).unwrap();
        let node = Summary::of(&load_certificates(&dir.join("node.pem")).unwrap()[0]).unwrap();
        for expected in [
            "  subject  CN=Test CA (an authority)\n",
            "  subject  CN=node.example.com\n  names    node.example.com, 192.0.2.1, adit-node:@any\n  issuer   CN=Test CA\n",
            "(10 days left)\n",
            &format!("  pin      {}\n\n", node.fingerprint),
            "  subject  CN=press-7\n",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not in:\n{shown}");
        }
        assert!(dir.join("agent-press-7.key").exists());
    }

    #[test]
    fn nothing_is_overwritten() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        certs(dir, &["ca", "--certs", "DIR"]).unwrap();
        certs(dir, &["node", "a.example", "--certs", "DIR"]).unwrap();
        let contents =
            || ["ca.pem", "ca.key", "node.pem", "node.key"].map(|f| std::fs::read(dir.join(f)).unwrap());
        let before = contents();
        for again in [&["ca", "--certs", "DIR"][..], &["node", "b.example", "--certs", "DIR"]] {
            let error = certs(dir, again).unwrap_err().to_string();
            assert!(error.contains("exists already"), "{error}");
        }
        // Only one of the two is in the way: the other is not made.
        let error = certs(dir, &["agent", "x", "--certs", "DIR"]).and_then(|_| {
            std::fs::remove_file(dir.join("agent-x.key")).unwrap();
            certs(dir, &["agent", "x", "--certs", "DIR"])
        });
        assert!(error.is_err() && !dir.join("agent-x.key").exists());
        assert_eq!(before, contents());
    }

    #[test]
    fn mistakes_are_answered_with_the_fix() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let error = certs(dir, &["node", "a.example", "--certs", "DIR"]).unwrap_err().to_string();
        assert!(error.contains("adit certs ca"), "{error}");
        certs(dir, &["ca", "--certs", "DIR"]).unwrap();
        let table: [(&[&str], &str); 6] = [
            (&["node", "https://a.example", "--certs", "DIR"], "without a port or scheme"),
            (&["agent", "../up", "--certs", "DIR"], "neither an IP address nor a DNS name"),
            (&["node", "a.example", "--out", "../up", "--certs", "DIR"], "use --certs"),
            (&["node", "a.example", "--days", "0", "--certs", "DIR"], "1..=3650"),
            (&["show", "DIR/ca.key"], "holds no certificate"),
            (&["show", "DIR/none.pem"], "cannot be read"),
        ];
        for (words, expected) in table {
            let error = certs(dir, words).unwrap_err().to_string();
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }

    #[test]
    fn help_fits_80_columns() {
        let mut line = <Line as clap::CommandFactory>::command();
        line.build();
        for command in line.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            let longest = help.lines().map(|text| text.chars().count()).max();
            assert!(longest <= Some(80), "{help}");
        }
    }
}
