//! Tenants: the file with their keys, and where requests say which one they are for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use http::HeaderName;
use serde::Deserialize;

use super::{ConfigError, auth::trust_in_source, read_file};
use crate::{
    auth::{self, Hosts, JwksSettings, JwksSource, KeysConfig, Rules, TenantRules, load_keys},
    protocol::TenantId,
};

/// Who the tenants are.
#[derive(Debug, Clone, Args)]
pub struct TenantArgs {
    /// TOML file with a table for each tenant that has keys of its own, which vouch for it alone, on the edge and the link
    /// port: `key-file` or `jwks`, and perhaps `issuer`, `audience` and `hosts`.
    #[arg(long, value_name = "FILE", help_heading = "Tenants")]
    tenants: Option<PathBuf>,
    /// Header field in which a request may say its tenant (repeatable; the first that is there counts). A token or
    /// certificate says which it may.
    #[arg(long, value_name = "NAME", default_value = "x-adit-tenant", help_heading = "Tenants")]
    tenant_header: Vec<HeaderName>,
    /// Domain below which hosts are ENDPOINT.TENANT.DOMAIN, or ENDPOINT.DOMAIN for the default tenant (repeatable).
    #[arg(long, value_name = "DOMAIN", help_heading = "Tenants")]
    tenant_domain: Vec<String>,
}

/// One table of the file. Paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Tenant {
    key_file: Option<PathBuf>,
    jwks: Option<String>,
    jwks_ca: Option<PathBuf>,
    #[serde(default)]
    issuer: Vec<String>,
    #[serde(default)]
    audience: Vec<String>,
    #[serde(default)]
    hosts: Vec<String>,
}

impl TenantArgs {
    /// Where requests say their tenant.
    pub(super) fn asked(&self) -> TenantRules {
        let domain = |domain: &String| domain.trim_matches('.').to_ascii_lowercase();
        TenantRules {
            headers: self.tenant_header.clone(),
            domains: self.tenant_domain.iter().map(domain).collect(),
        }
    }

    /// The tenants with keys of their own.
    pub(super) fn keys(&self) -> Result<Vec<(TenantId, auth::Config)>, ConfigError> {
        let Some(file) = &self.tenants else { return Ok(Vec::new()) };
        let tenants: BTreeMap<String, Tenant> = read_file(file)?;
        let folder = file.parent().unwrap_or_else(|| Path::new(""));
        let read = |(name, tenant): (String, Tenant)| {
            let place = || format!("{}: [{name}]", file.display());
            let id = TenantId::new(&name)
                .map_err(|error| ConfigError::Value { place: place(), reason: error.to_string() })?;
            Ok((id, tenant.config(folder, place)?))
        };
        tenants.into_iter().map(read).collect()
    }
}

impl Tenant {
    fn config(self, folder: &Path, place: impl Fn() -> String) -> Result<auth::Config, ConfigError> {
        let wrong = |reason: String| ConfigError::Value { place: place(), reason };
        let keys = match (&self.key_file, &self.jwks) {
            (Some(file), None) if self.jwks_ca.is_none() => KeysConfig::Fixed(load_keys(&folder.join(file))?),
            (None, Some(url)) => {
                let trust = trust_in_source(self.jwks_ca.map(|file| folder.join(file)).as_deref())?;
                let source = JwksSource::new(url, &trust).map_err(|error| wrong(format!("jwks: {error}")))?;
                KeysConfig::Jwks(source, JwksSettings::default())
            }
            _ => return Err(wrong("give either key-file or jwks, and jwks-ca with jwks alone".into())),
        };
        let hosts: Result<Vec<Hosts>, _> = self.hosts.iter().map(|host| host.parse()).collect();
        let hosts = hosts.map_err(|error| wrong(format!("hosts: {error}")))?;
        let rules = Rules { issuers: self.issuer, audiences: self.audience, hosts, ..Rules::default() };
        Ok(auth::Config { keys, rules })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn keys(text: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("acme.key"), "a secret of thirty-two bytes or more").unwrap();
        let file = folder.path().join("tenants.toml");
        fs::write(&file, text).unwrap();
        let args = TenantArgs { tenants: Some(file), tenant_header: Vec::new(), tenant_domain: Vec::new() };
        let shown = |error: ConfigError| error.to_string().replace(folder.path().to_str().unwrap(), "DIR");
        args.keys().map(|keys| keys.into_iter().map(|(id, _)| id.to_string()).collect()).map_err(shown)
    }

    #[test]
    fn each_table_is_a_tenant_with_keys_beside_the_file() {
        let text = "[acme]\nkey-file = 'acme.key'\nissuer = ['acme']\n[other]\njwks = 'https://id.example.com/keys'\n";
        assert_eq!(keys(text).unwrap(), ["acme", "other"]);
    }

    #[test]
    fn mistakes_name_the_file_and_the_table() {
        for (text, expected) in [
            (
                "[acme]\n",
                "DIR/tenants.toml: [acme]: give either key-file or jwks, and jwks-ca with jwks alone",
            ),
            ("[acme]\nkey-file = 'absent'\n", "DIR/absent cannot be read"),
            ("[acme]\nkey = 'a'\n", "DIR/tenants.toml, line 2: unknown field `key`"),
            ("['a b']\nkey-file = 'acme.key'\n", "DIR/tenants.toml: [a b]: "),
            ("[acme\n", "DIR/tenants.toml, line 1: "),
        ] {
            let told = keys(text).unwrap_err();
            assert!(told.starts_with(expected), "{text}: {told}");
        }
    }
}
