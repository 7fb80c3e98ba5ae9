//! Client certificates of the edge, the link port and the admin port: who signs them, what they are for, which are denied.

use std::{fs, path::PathBuf};

use clap::Args;
use serde::Deserialize;

use super::{ConfigError, read_file, unreadable};
use crate::{
    auth::{CertificateRule, CertificateRules, DeniedList, Hosts, Pattern, Tenants},
    protocol::TenantId,
    tls::{ClientAuth, Trust},
};

/// The file of rules.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(default)]
    certificate: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
    #[serde(default)]
    tenants: Vec<String>,
    endpoints: Option<Vec<String>>,
    hosts: Option<Vec<String>>,
}

/// What was given for one port, and the names of the flags.
struct Given<'a> {
    ca: Option<&'a PathBuf>,
    rules: Option<&'a PathBuf>,
    denied: Option<&'a PathBuf>,
    names: [&'static str; 3],
}

impl Given<'_> {
    fn config(self) -> Result<(ClientAuth, Option<CertificateRules>), ConfigError> {
        let [ca_name, rules_name, denied_name] = self.names;
        let Some(ca) = self.ca else {
            let given = [(self.rules, rules_name), (self.denied, denied_name)];
            return match given.into_iter().find(|(given, _)| given.is_some()) {
                Some((_, given)) => Err(ConfigError::Half { given, missing: ca_name }),
                None => Ok((ClientAuth::None, None)),
            };
        };
        let rules = match self.rules {
            Some(file) => {
                let Rules { certificate } = read_file(file)?;
                let rule = |(index, rule): (usize, Rule)| {
                    let place = format!("{}: [[certificate]] {}", file.display(), index + 1);
                    rule.read().map_err(|reason| ConfigError::Value { place, reason })
                };
                let rules = certificate.into_iter().enumerate().map(rule).collect::<Result<Vec<_>, _>>()?;
                if rules.is_empty() {
                    return Err(ConfigError::Nothing { path: file.clone(), table: "certificate" });
                }
                rules
            }
            None => Vec::new(),
        };
        let denied = match self.denied {
            Some(file) => {
                let text = fs::read_to_string(file).map_err(unreadable(file))?;
                text.parse::<DeniedList>().map_err(|error| ConfigError::Value {
                    place: file.display().to_string(),
                    reason: error.to_string(),
                })?
            }
            None => DeniedList::default(),
        };
        // Whoever shows none is told why by the port, which may take a token as well.
        let clients = ClientAuth::Optional(Trust::roots_from_file(ca)?);
        Ok((clients, Some(CertificateRules { rules, denied })))
    }
}

impl Rule {
    fn read(self) -> Result<CertificateRule, String> {
        let tenants = match &self.tenants[..] {
            [] => Tenants::default(),
            [all] if all == "*" => Tenants::Any,
            names => Tenants::Some(
                names
                    .iter()
                    .map(|name| TenantId::new(name))
                    .collect::<Result<_, _>>()
                    .map_err(|error| format!("tenants: {error}"))?,
            ),
        };
        let endpoints = |names: Vec<String>| {
            let patterns: Result<Vec<Pattern>, _> = names.iter().map(|name| name.parse()).collect();
            patterns.map_err(|error| format!("endpoints: {error}"))
        };
        let hosts = |names: Vec<String>| {
            let hosts: Result<Vec<Hosts>, _> = names.iter().map(|name| name.parse()).collect();
            hosts.map_err(|error| format!("hosts: {error}"))
        };
        Ok(CertificateRule {
            name: self.name.parse().map_err(|error| format!("name: {error}"))?,
            tenants,
            endpoints: self.endpoints.map(endpoints).transpose()?,
            hosts: self.hosts.map(hosts).transpose()?,
        })
    }
}

macro_rules! client_args {
    ($(#[$doc:meta])* $name:ident, $port:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Args)]
        pub struct $name {
            /// Take client certificates that an authority in this PEM file signs, in the place of a token or beside one.
            #[arg(id = concat!($port, "_client_ca"), long = concat!($port, "-client-ca"), value_name = "FILE")]
            ca: Option<PathBuf>,
            #[arg(id = concat!($port, "_client_rules"), long = concat!($port, "-client-rules"), value_name = "FILE")]
            #[arg(help = "TOML file that says what they are for: [[certificate]] tables with a `name` of \
                theirs, `tenants`, `endpoints` and `hosts`; the first that fits counts. Without it, everything \
                in the default tenant")]
            rules: Option<PathBuf>,
            /// File with those that are not taken any more: a line for each, `sha256:DIGEST` or `serial:NUMBER`.
            #[arg(id = concat!($port, "_client_denied"), long = concat!($port, "-client-denied"), value_name = "FILE")]
            denied: Option<PathBuf>,
        }

        impl $name {
            /// What TLS asks for, and what a certificate that it has verified grants.
            ///
            /// # Errors
            /// What was given cannot be used, or does not go together.
            pub(super) fn config(&self) -> Result<(ClientAuth, Option<CertificateRules>), ConfigError> {
                Given {
                    ca: self.ca.as_ref(),
                    rules: self.rules.as_ref(),
                    denied: self.denied.as_ref(),
                    names: [
                        concat!("--", $port, "-client-ca"),
                        concat!("--", $port, "-client-rules"),
                        concat!("--", $port, "-client-denied"),
                    ],
                }
                .config()
            }
        }
    };
}

client_args! {
    /// Client certificates of the edge.
    EdgeClientArgs, "edge"
}

client_args! {
    /// Client certificates of the link port.
    LinkClientArgs, "link"
}

client_args! {
    /// Client certificates of the admin port.
    AdminClientArgs, "admin"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Authority;

    fn config(rules: &str, denied: &str) -> Result<CertificateRules, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        Authority::generate("test authority").unwrap().pem().write(&file("ca.pem"), &file("ca.key")).unwrap();
        fs::write(file("rules.toml"), rules).unwrap();
        fs::write(file("denied"), denied).unwrap();
        let args = EdgeClientArgs {
            ca: Some(file("ca.pem")),
            rules: Some(file("rules.toml")),
            denied: Some(file("denied")),
        };
        let shown = |error: ConfigError| error.to_string().replace(folder.path().to_str().unwrap(), "DIR");
        args.config().map(|(_, rules)| rules.unwrap()).map_err(shown)
    }

    #[test]
    fn rules_say_tenants_and_endpoints() {
        let text = "[[certificate]]\nname = '*.acme.example'\ntenants = ['acme']\nendpoints = ['web-*']\n\
                    [[certificate]]\nname = 'spiffe://ops/*'\ntenants = ['*']\n";
        let rules = config(text, "serial:1f\n").unwrap().rules;
        assert_eq!(rules[0].tenants, Tenants::one(TenantId::new("acme").unwrap()));
        assert_eq!(rules[0].endpoints.as_ref().unwrap()[0].to_string(), "web-*");
        assert_eq!((&rules[1].tenants, &rules[1].endpoints), (&Tenants::Any, &None));
    }

    #[test]
    fn mistakes_name_the_file_and_the_rule() {
        let good = "[[certificate]]\nname = 'a.example'\n";
        for (rules, denied, expected) in [
            ("", "", "DIR/rules.toml has no [[certificate]]"),
            ("[[certificate]]\nname = '*'\n", "", "DIR/rules.toml: [[certificate]] 1: name: expected a name"),
            (
                "[[certificate]]\nname = 'a'\ntenant = 'b'\n",
                "",
                "DIR/rules.toml, line 3: unknown field `tenant`",
            ),
            (good, "serial:1f\nnothing\n", "DIR/denied: "),
        ] {
            let told = config(rules, denied).unwrap_err();
            assert!(told.starts_with(expected), "{rules}: {told}");
        }
        let alone = LinkClientArgs { ca: None, rules: None, denied: Some("denied".into()) };
        let told = alone.config().unwrap_err().to_string();
        assert_eq!(told, "--link-client-denied needs --link-client-ca: give both or neither");
    }
}
