//! `adit status`: what nodes tell by their admin ports, as tables.
//!
//! This has the flags; `view` knows what to ask for each table, `ask` asks, `rows` and `table` make text of the answer, and
//! `watch` does it again and again.

mod ask;
mod rows;
mod table;
mod view;
mod watch;

use std::{io::IsTerminal, time::Duration};

use clap::{Args, Subcommand};

use super::{ENVIRONMENT, failure::Failure, operator::AdminArgs, plain::is_colour_wanted, process, say};
use crate::protocol::NodeId;
use ask::Asker;
use view::View;

/// Show what a node sees: the other nodes, the links of agents and forwarders, and the endpoints.
// Each flag may also stand before the name of a table. Where one stands on both sides, the one behind it holds.
#[derive(Debug, Args)]
#[command(mut_args(|arg| arg.global(true)))]
pub(super) struct StatusArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The nodes of the cluster
    #[command(after_help = ENVIRONMENT)]
    Nodes(ShowArgs),
    /// The endpoints, and who serves them
    #[command(after_help = ENVIRONMENT)]
    Endpoints(ShowArgs),
    /// The agents, whichever nodes they are linked to
    #[command(after_help = ENVIRONMENT)]
    Agents(ShowArgs),
    /// The links of agents and forwarders to the node
    #[command(after_help = ENVIRONMENT)]
    Links(ShowArgs),
    /// The requests and flows that are open on the node, the oldest first
    #[command(after_help = ENVIRONMENT)]
    Flows(FlowsArgs),
    /// What has happened of late: links that have ended or were refused and why, nodes that are gone
    #[command(after_help = ENVIRONMENT)]
    Recent(ShowArgs),
    /// One node in full
    #[command(after_help = ENVIRONMENT)]
    Node(OneNodeArgs),
}

/// Whom to ask, and how to show the answer.
#[derive(Debug, Args)]
struct ShowArgs {
    /// Show what another node sees: the one that is asked asks it, over the link between the two.
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
    /// Print what the node answers, for programs.
    #[arg(long)]
    json: bool,
    /// Ask again and again (every 2s), until Ctrl-C.
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = interval
    )]
    watch: Option<Duration>,
    // The last, since its last flags have a heading of their own.
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
struct FlowsArgs {
    /// How many to show at most.
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    max: u16,
    #[command(flatten)]
    show: ShowArgs,
}

#[derive(Debug, Args)]
struct OneNodeArgs {
    /// The node's name.
    id: NodeId,
    #[command(flatten)]
    show: ShowArgs,
}

/// Often enough for anybody to read along.
const SHORTEST: Duration = Duration::from_millis(100);

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST {
        return Err(format!("{SHORTEST:?} at least"));
    }
    Ok(interval)
}

impl StatusArgs {
    fn split(self) -> (View, ShowArgs) {
        match self.what {
            None => (View::All, self.show),
            Some(What::Nodes(show)) => (View::Nodes, show),
            Some(What::Endpoints(show)) => (View::Endpoints, show),
            Some(What::Agents(show)) => (View::Agents, show),
            Some(What::Links(show)) => (View::Links, show),
            Some(What::Flows(FlowsArgs { max, show })) => (View::Flows { most: max }, show),
            Some(What::Recent(show)) => (View::Recent, show),
            Some(What::Node(OneNodeArgs { id, show })) => (View::Node(id), show),
        }
    }
}

pub(super) fn run(args: StatusArgs) -> Result<(), Failure> {
    let (view, show) = args.split();
    let asker = Asker::new(&show.admin, view.path(show.node.as_ref()))?;
    let terminal = std::io::stdout().is_terminal();
    let shown = Shown { view, json: show.json, colour: terminal && is_colour_wanted() };
    process::block_on(async {
        match show.watch {
            Some(every) => watch::run(&asker, &shown, every, terminal && !show.json).await,
            None => {
                say(shown.text(&asker.ask().await?)?);
                Ok(())
            }
        }
    })
}

/// How an answer is shown.
#[derive(Debug)]
struct Shown {
    view: View,
    json: bool,
    colour: bool,
}

impl Shown {
    /// What is printed for an answer, without the end of its last line.
    fn text(&self, answer: &[u8]) -> anyhow::Result<String> {
        let text = match self.json {
            true => String::from_utf8_lossy(answer).into_owned(),
            false => self.view.render(answer, self.colour)?,
        };
        Ok(text.trim_end().to_owned())
    }

    /// The same for an answer that has not come.
    fn failure(&self, error: &anyhow::Error) -> String {
        match self.json {
            true => serde_json::json!({ "error": format!("{error:#}") }).to_string(),
            false => table::bad(&format!("adit: {error:#}"), self.colour),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;

    use super::*;
    use crate::{cli::operator::Admin, config};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        status: StatusArgs,
    }

    /// The path that is asked and where, with ADIT_ADMIN in the environment.
    fn asked(words: &[&str]) -> (String, Option<String>) {
        let line = ["status"].iter().chain(words).map(OsString::from);
        let variable = |name: &str| (name == "ADIT_ADMIN").then(|| "env:1".into());
        let line: Line = config::parse(line, variable, &[]).unwrap();
        let (view, show) = line.status.split();
        let admin = Admin::new(&show.admin).ok().map(|admin| admin.url().to_string());
        (view.path(show.node.as_ref()), admin)
    }

    #[test]
    fn flags_may_stand_on_either_side_of_the_table() {
        let asks = |words: &[&str], path: &str, admin: &str| {
            assert_eq!(asked(words), (path.to_owned(), Some(admin.to_owned())), "{words:?}");
        };
        asks(&["--admin", "a:1"], "/api/v1/status", "a:1");
        asks(&["--admin", "a:1", "nodes"], "/api/v1/nodes", "a:1");
        asks(&["nodes", "--admin", "a:1"], "/api/v1/nodes", "a:1");
        asks(&["--admin=a:1", "--watch", "--json", "nodes"], "/api/v1/nodes", "a:1");
        asks(&["--admin", "a:1", "nodes", "--admin", "b:1"], "/api/v1/nodes", "b:1");
        asks(&["--node", "n2", "flows", "--max", "5"], "/api/v1/flows?limit=5&node=n2", "env:1");
        asks(&["--json", "node", "n2"], "/api/v1/nodes/n2", "env:1");
        asks(&[], "/api/v1/status", "env:1");
    }
}
