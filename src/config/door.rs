//! The flags of an endpoint's door, which are keys of an `[[endpoint]]` too, and those of a node's `[[door]]`.

use clap::Args;
use ipnet::IpNet;

use super::{ConfigError, network};
use crate::{
    auth::{Access, Door, InvalidAccess, Pattern},
    protocol::{EndpointId, Kind, Secret, TenantId},
};

/// Named in each, since it would otherwise go on for whatever arguments follow.
const HEADING: &str = "Who may come in";

/// Which clients are let in, by their address.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct DoorArgs {
    /// Let only clients of this network in (repeatable): ADDRESS or ADDRESS/PREFIX.
    #[arg(help_heading = HEADING, long, value_name = "CIDR", value_parser = network)]
    allow: Vec<IpNet>,
    /// Let no client of this network in, whatever --allow says (repeatable).
    #[arg(help_heading = HEADING, long, value_name = "CIDR", value_parser = network)]
    deny: Vec<IpNet>,
}

/// Which requests are let in.
// Read only when they are used: what clap says of a value that it does not take shows all of it.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct HttpDoorArgs {
    /// Let only clients in that log in with this name and password, or another that is given (repeatable).
    #[arg(help_heading = HEADING, long, value_name = "USER:PASSWORD", hide_default_value = true)]
    basic_auth: Vec<Secret>,
    /// Let only requests in that have this header with this value (repeatable; all are required).
    #[arg(help_heading = HEADING, long, value_name = "NAME=VALUE", hide_default_value = true)]
    require_header: Vec<Secret>,
}

impl DoorArgs {
    /// The door of an endpoint of this kind.
    pub(super) fn into_access(
        self,
        requests: HttpDoorArgs,
        endpoint: &EndpointId,
        kind: Kind,
    ) -> Result<Access, ConfigError> {
        // Of requests that are not read, nothing is known; not even, over HTTP/2, whose they are.
        let read = kind == Kind::Http;
        let by_address = read || !kind.is_http();
        let needless = [
            ("--basic-auth", !read && !requests.basic_auth.is_empty()),
            ("--require-header", !read && !requests.require_header.is_empty()),
            ("--allow", !by_address && !self.allow.is_empty()),
            ("--deny", !by_address && !self.deny.is_empty()),
        ];
        if let Some((option, _)) = needless.into_iter().find(|(_, needless)| *needless) {
            return Err(ConfigError::NotHttp { option, endpoint: endpoint.clone() });
        }
        self.read(&requests).map_err(|(option, source)| ConfigError::Door {
            option,
            endpoint: endpoint.to_string(),
            source,
        })
    }

    fn read(self, requests: &HttpDoorArgs) -> Result<Access, (&'static str, InvalidAccess)> {
        let Self { allow, deny } = self;
        let HttpDoorArgs { basic_auth, require_header } = requests;
        let wrong = |option| move |source| (option, source);
        let logins = basic_auth.iter().map(|login| login.expose().parse());
        let headers = require_header.iter().map(|field| field.expose().parse());
        Ok(Access {
            allow,
            deny,
            logins: logins.collect::<Result<_, _>>().map_err(wrong("--basic-auth"))?,
            headers: headers.collect::<Result<_, _>>().map_err(wrong("--require-header"))?,
        })
    }
}

/// A table `[[door]]` of a node's file. Its keys are these flags.
#[derive(Debug, Clone, Args)]
pub(super) struct NodeDoorArgs {
    /// Which endpoints it is before: a name, the beginning of names and `*`, or `*`.
    #[arg(long)]
    endpoint: Pattern,
    #[arg(long, default_value_t)]
    tenant: TenantId,
    #[command(flatten)]
    addresses: DoorArgs,
    #[command(flatten)]
    requests: HttpDoorArgs,
}

impl NodeDoorArgs {
    pub(super) fn into_door(self) -> Result<Door, ConfigError> {
        let Self { endpoint, tenant, addresses, requests } = self;
        let access = addresses.read(&requests).map_err(|(option, source)| ConfigError::Door {
            option,
            endpoint: endpoint.to_string(),
            source,
        })?;
        if access.is_open() {
            return Err(ConfigError::OpenDoor(endpoint));
        }
        Ok(Door { tenant, endpoints: endpoint, access })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(kind: Kind, login: &str, header: &str, allow: &str) -> Result<Access, String> {
        let secret = |text: &str| (!text.is_empty()).then(|| Secret::new(text)).into_iter().collect();
        let allow = (!allow.is_empty()).then(|| network(allow).unwrap()).into_iter().collect();
        let requests = HttpDoorArgs { basic_auth: secret(login), require_header: secret(header) };
        let door = DoorArgs { allow, ..DoorArgs::default() };
        let access = door.into_access(requests, &EndpointId::new("web").unwrap(), kind);
        access.map_err(|error| crate::telemetry::report(&error))
    }

    #[test]
    fn each_kind_has_the_demands_that_can_be_made_of_it() {
        assert!(access(Kind::Http, "ann:one", "x-door=open", "10.0.0.0/8").is_ok());
        assert!(access(Kind::Http, "", "", "").unwrap().is_open());
        for kind in [Kind::Tcp, Kind::Udp] {
            assert!(access(kind, "", "", "10.0.0.1").is_ok());
        }
        for (kind, login, header, allow, option) in [
            (Kind::Tcp, "ann:one", "", "", "--basic-auth"),
            (Kind::Udp, "", "x-door=open", "", "--require-header"),
            (Kind::Http2, "ann:one", "", "", "--basic-auth"),
            (Kind::Http2, "", "", "10.0.0.0/8", "--allow"),
        ] {
            let told = access(kind, login, header, allow).unwrap_err();
            assert!(told.starts_with(&format!("{option} is for services that speak HTTP/1.1")), "{told}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_no_password_is_shown() {
        for (login, header, expected) in [
            (
                "hunter2",
                "",
                "--basic-auth of web cannot be used: expected NAME:PASSWORD, neither of them empty",
            ),
            (
                "",
                "hunter2",
                "--require-header of web cannot be used: expected NAME=VALUE, the name and value of a header field",
            ),
        ] {
            assert_eq!(access(Kind::Http, login, header, "").unwrap_err(), expected);
        }
        let args = HttpDoorArgs {
            basic_auth: vec![Secret::new("ann:hunter2")],
            require_header: vec![Secret::new("x=hunter2")],
        };
        assert!(!format!("{args:?}").contains("hunter2"));
    }

    #[test]
    fn a_door_of_a_node_is_a_table_that_demands_something() {
        let read = |text: &str| super::super::layers::table::<NodeDoorArgs>(text);
        let door = read("{endpoint = 'web-*', allow = ['10.0.0.0/8'], basic-auth = 'ann:hunter2'}").unwrap();
        let door = door.into_door().unwrap();
        assert_eq!((door.tenant, door.endpoints.to_string()), (TenantId::default(), "web-*".into()));
        assert_eq!((door.access.allow.len(), door.access.logins.len()), (1, 1));
        let wrong = |text: &str| match read(text) {
            Err(reason) => reason,
            Ok(door) => door.into_door().unwrap_err().to_string(),
        };
        for (text, expected) in [
            ("{endpoint = 'web'}", "the [[door]] of web demands nothing"),
            ("{allow = '10.0.0.0/8'}", "`endpoint` is missing"),
            ("{endpoint = 'web', basic-auth = 'hunter2'}", "--basic-auth of web cannot be used"),
            ("{endpoint = 'web', alow = '10.0.0.0/8'}", "unknown key `alow`"),
        ] {
            let told = wrong(text);
            assert!(told.starts_with(expected) && !told.contains("hunter2"), "{told}");
        }
    }
}
