//! `adit token`: makes tokens, and the keys to make and verify them with.
//!
//! For development, for tests, and for fabrics without an identity provider. It writes only where it is told to, never over
//! an existing file; a token goes to standard output alone, so that it can be piped.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::{
    auth::{Action, Algorithm, Hosts, Kind, Pattern, SigningKey},
    protocol::{InvalidId, Secret, TenantId},
    tls::write_new,
};

/// Make a token, or the keys for tokens.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    mint: MintArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key: DIR/NAME.key to make tokens with, DIR/NAME.pub and DIR/NAME.jwks.json to verify them with.
    Key(KeyArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("signer").args(["key", "secret"]).required(true))]
struct MintArgs {
    /// Private key (PEM) or shared secret to sign with.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Shared secret to sign with, as it is or as base64:TEXT. Other users of this machine can see it; --key keeps it from
    /// them.
    #[arg(long, value_name = "TEXT")]
    secret: Option<Secret>,
    /// Endpoint that the token is for (repeatable), or prefix-* for all that begin so. By default, all.
    #[arg(long = "endpoint", value_name = "NAME")]
    endpoints: Vec<Pattern>,
    /// Whole host that an agent may have stand for its endpoints (repeatable), or *.NAME, or * for all. By default, all; none
    /// when there is an --endpoint or a --tenant.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Hosts>,
    /// What the token is for (repeatable): serve, connect or admin. By default, all that its ports do; admin only when there
    /// is no --endpoint.
    #[arg(long = "action", value_name = "ACTION")]
    actions: Vec<Action>,
    /// Tenant that the token is for (repeatable), the first where none is asked for, or * for all. By default, that of the key,
    /// or else the tenant `default`.
    #[arg(long = "tenant", value_name = "NAME", value_parser = tenant)]
    tenants: Vec<String>,
    /// How long the token is good, or `never` for a token that does not end.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    expires: Lifetime,
    /// Audience that the token is for (repeatable).
    #[arg(long = "audience", value_name = "NAME")]
    audiences: Vec<String>,
    /// Issuer that the token names.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Whose token it is, for logs.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Name of the key. By default, its thumbprint, as in NAME.jwks.json.
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Algorithm to sign with. By default, EdDSA, ES256, ES384, ES512, RS256 or HS256, as the key is.
    #[arg(long, value_name = "ALGORITHM")]
    alg: Option<Algorithm>,
}

#[derive(Debug, Args)]
struct KeyArgs {
    /// Folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the files, without an extension.
    #[arg(long, value_name = "NAME", default_value = "token")]
    name: String,
    /// Algorithm that the key is for: EdDSA, ES256, ES384, ES512, RS256, PS256, HS256 …
    #[arg(long, value_name = "ALGORITHM", default_value = "EdDSA")]
    alg: Algorithm,
}

/// How long a token is good; for ever when there is nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lifetime(Option<Duration>);

/// No token is good for longer than a century, unless it is for ever.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

fn lifetime(text: &str) -> Result<Lifetime, String> {
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        0 => Err("it must be a second at least".into()),
        _ if duration > MAX_LIFETIME => Err("it is over a century: write `never`".into()),
        _ => Ok(Lifetime(Some(duration))),
    }
}

/// What stands for all tenants in a token.
const EVERY_TENANT: &str = "*";

fn tenant(text: &str) -> Result<String, InvalidId> {
    if text == EVERY_TENANT { Ok(text.into()) } else { Ok(TenantId::new(text)?.to_string()) }
}

/// Runs `adit token`, telling `out` the token, or what was written.
///
/// # Errors
///
/// What the user can set right, in a sentence: a key that cannot be used, a file in the way.
pub(super) fn run(args: TokenArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    match args.command {
        Some(Command::Key(args)) => make_key(&args, out),
        None => mint(args.mint, SystemTime::now(), out),
    }
}

fn mint(args: MintArgs, now: SystemTime, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut signer = match (&args.key, &args.secret) {
        (Some(path), _) => SigningKey::load(path)?,
        (None, Some(secret)) => {
            SigningKey::read(secret.expose().as_bytes()).context("--secret cannot be used")?
        }
        (None, None) => anyhow::bail!("give --key FILE or --secret TEXT to sign with"),
    };
    if let Some(algorithm) = args.alg {
        signer = signer.with_algorithm(algorithm)?;
    }
    if let Some(kid) = &args.kid {
        signer = signer.named(kid);
    }
    writeln!(out, "{}", signer.sign(&claims(&args, now)?)?)?;
    Ok(())
}

fn claims(args: &MintArgs, now: SystemTime) -> anyhow::Result<Value> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let mut adit = Map::new();
    if !args.endpoints.is_empty() {
        let endpoints = args.endpoints.iter().map(ToString::to_string);
        adit.insert("endpoints".into(), endpoints.collect());
    }
    if !args.hosts.is_empty() {
        adit.insert("hosts".into(), args.hosts.iter().map(ToString::to_string).collect());
    }
    if !args.actions.is_empty() {
        adit.insert("actions".into(), args.actions.iter().map(|action| action.name()).collect());
    }
    anyhow::ensure!(
        args.tenants.len() < 2 || args.tenants.iter().all(|tenant| tenant != EVERY_TENANT),
        "--tenant '*' is for all tenants: leave the others out"
    );
    if let Some(tenants) = one_or_more(&args.tenants) {
        adit.insert("tenant".into(), tenants);
    }
    let mut claims = Map::new();
    claims.insert("iat".into(), now.as_secs().into());
    if let Lifetime(Some(lifetime)) = args.expires {
        claims.insert("exp".into(), (now + lifetime).as_secs().into());
    }
    if let Some(audiences) = one_or_more(&args.audiences) {
        claims.insert("aud".into(), audiences);
    }
    for (name, value) in [("iss", &args.issuer), ("sub", &args.subject)] {
        if let Some(value) = value {
            claims.insert(name.into(), json!(value));
        }
    }
    if !adit.is_empty() {
        claims.insert("adit".into(), adit.into());
    }
    Ok(claims.into())
}

/// Names as claims have them: one is no list.
fn one_or_more(names: &[String]) -> Option<Value> {
    match names {
        [] => None,
        [one] => Some(json!(one)),
        several => Some(json!(several)),
    }
}

fn make_key(args: &KeyArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    anyhow::ensure!(
        !args.name.is_empty() && !args.name.contains(['/', '\\']),
        "--name takes the name of the files, not a path: use --out for the folder"
    );
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    let signer = SigningKey::generate(args.alg)?;
    let path = |extension: &str| args.out.join(format!("{}.{extension}", args.name));
    let shared = signer.kind() == Kind::Secret;
    let (of_key, of_set) = match shared {
        true => (
            "the shared secret: whoever has it can make tokens, and nodes need it to verify them",
            "the same as a JWK Set, just as secret",
        ),
        false => (
            "the private key: whoever has it can make tokens; nodes do not need it",
            "the public key as a JWK Set",
        ),
    };
    let mut files = vec![(path("key"), signer.private_text()?, true, of_key)];
    if let Some(pem) = signer.public_pem()? {
        files.push((
            path("pub"),
            pem.into(),
            false,
            "the public key: give it to nodes to verify tokens with",
        ));
    }
    files.push((path("jwks.json"), signer.jwks()?.into(), shared, of_set));
    write_all(&files)?;
    for (path, _, _, what) in &files {
        writeln!(out, "wrote {} ({what})", path.display())?;
    }
    Ok(())
}

/// Writes all of them or, when one cannot be, none.
fn write_all(files: &[(PathBuf, Zeroizing<String>, bool, &str)]) -> anyhow::Result<()> {
    let mut written: Vec<&Path> = Vec::new();
    for (path, text, private, _) in files {
        if let Err(error) = write_new(path, text.as_bytes(), *private) {
            for path in written {
                // Made by this call a moment ago, and of no use without the others.
                let _ = std::fs::remove_file(path);
            }
            return Err(error.into());
        }
        written.push(path);
    }
    Ok(())
}
