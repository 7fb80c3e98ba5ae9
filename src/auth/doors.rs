//! Doors that a node puts before endpoints, whoever serves them: which endpoints, and what is demanded there.
//!
//! Pure. A client must meet the demands of every door that is before an endpoint. Those of the agent that serves it come
//! behind them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use super::{Access, Denied, Pattern};
use crate::protocol::{EndpointId, TenantId};

/// One door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Whose endpoints it is before.
    pub tenant: TenantId,
    /// Which of them.
    pub endpoints: Pattern,
    /// What it demands.
    pub access: Access,
}

/// All doors of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Doors(Vec<Door>);

impl From<Vec<Door>> for Doors {
    fn from(doors: Vec<Door>) -> Self {
        Self(doors)
    }
}

impl Doors {
    fn before(&self, tenant: &TenantId, endpoint: &EndpointId) -> impl Iterator<Item = &Access> {
        let before = |door: &&Door| door.tenant == *tenant && door.endpoints.matches(endpoint);
        self.0.iter().filter(before).map(|door| &door.access)
    }

    /// Whether some door is opened by what is in this header field.
    pub fn open_by(&self, field: &HeaderName) -> bool {
        self.0.iter().any(|door| door.access.consumed().any(|own| own == *field))
    }

    /// Whether a client may connect, by its address: all that can be asked of TCP and UDP. A door that demands more than that
    /// lets nobody in there.
    ///
    /// # Errors
    /// The first demand that is not met.
    pub fn check_address(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        client: IpAddr,
    ) -> Result<(), Denied> {
        self.before(tenant, endpoint).try_for_each(|access| access.check(client, &HeaderMap::new()))
    }

    /// Whether a request may come in, and the fields that were for the doors, which are not passed on.
    ///
    /// # Errors
    /// The first demand that it does not meet.
    pub fn check(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        client: IpAddr,
        headers: &HeaderMap,
    ) -> Result<Vec<HeaderName>, Denied> {
        let mut consumed = Vec::new();
        for access in self.before(tenant, endpoint) {
            access.check(client, headers)?;
            consumed.extend(access.consumed());
        }
        Ok(consumed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(tenant: &str, endpoints: &str, access: Access) -> Door {
        Door { tenant: TenantId::new(tenant).unwrap(), endpoints: endpoints.parse().unwrap(), access }
    }

    #[test]
    fn every_door_before_an_endpoint_must_open() {
        let here = Access { allow: vec!["10.0.0.0/8".parse().unwrap()], ..Access::default() };
        let field = Access { headers: vec!["x-door=open".parse().unwrap()], ..Access::default() };
        let doors = Doors::from(vec![door("default", "*", here), door("default", "web-*", field)]);
        let (default, other) = (TenantId::default(), TenantId::new("other").unwrap());
        let endpoint = |name| EndpointId::new(name).unwrap();
        let (inside, outside): (IpAddr, IpAddr) = ([10, 1, 1, 1].into(), [11, 1, 1, 1].into());
        let none = HeaderMap::new();
        let open = HeaderMap::from_iter([(HeaderName::from_static("x-door"), "open".parse().unwrap())]);

        assert_eq!(doors.check(&default, &endpoint("db"), inside, &none), Ok(Vec::new()));
        assert_eq!(doors.check(&default, &endpoint("db"), outside, &open), Err(Denied::Address));
        assert_eq!(doors.check(&default, &endpoint("web-1"), inside, &none), Err(Denied::Header));
        let consumed = doors.check(&default, &endpoint("web-1"), inside, &open);
        assert_eq!(consumed, Ok(vec![HeaderName::from_static("x-door")]));
        assert_eq!(doors.check(&other, &endpoint("web-1"), outside, &none), Ok(Vec::new()));
        assert_eq!(doors.check_address(&default, &endpoint("db"), inside), Ok(()));
        assert_eq!(doors.check_address(&default, &endpoint("db"), outside), Err(Denied::Address));
        assert_eq!(doors.check_address(&default, &endpoint("web-1"), inside), Err(Denied::Header));
    }
}
