//! Why somebody is not let in: one sentence, one stable code, one status, for each port alike.
//!
//! No variant holds any part of a credential, so that none can reach a log or a response.

use http::{HeaderValue, StatusCode};

use super::{NotPermitted, jws::MAX_TOKEN};
use crate::protocol::{Code, Refusal};

/// Why credentials were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are none.
    #[error("no token was given: send it as `Authorization: Bearer TOKEN`")]
    Missing,
    /// There is no certificate, where only certificates are taken.
    #[error("no client certificate was shown")]
    NoCertificate,
    /// The header field cannot be read.
    #[error("the authorization cannot be read: {0}")]
    Header(&'static str),
    /// What stands in the place of a tenant is none.
    #[error("the tenant that is asked for cannot be read: {0}")]
    InvalidTenant(&'static str),
    /// Another scheme than the one that is understood.
    #[error("the authorization is of another scheme than Bearer")]
    Scheme,
    /// It is longer than [`MAX_TOKEN`].
    #[error("the token has {len} bytes, at most {MAX_TOKEN} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It is no token.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// It is signed in a way that none of the keys is for, or not at all.
    #[error("the token's algorithm is not one that the keys here are for (alg)")]
    Algorithm,
    /// It names a key that is not known.
    #[error("the token names a key that is not known here (kid)")]
    UnknownKey,
    /// No key has made its signature.
    #[error("the token's signature is not that of a key that is known here")]
    Signature,
    /// Its time is over.
    #[error("the token has expired (exp)")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet (nbf)")]
    NotYetValid,
    /// It is not for this port.
    #[error("the token {} (aud)", if *given { "is for another audience" } else { "names no audience" })]
    Audience {
        /// Whether it names one.
        given: bool,
    },
    /// It is not from here.
    #[error("the token {} (iss)", if *given { "is of another issuer" } else { "names no issuer" })]
    Issuer {
        /// Whether it names one.
        given: bool,
    },
    /// A claim is not of the form that it must have.
    #[error("the token's claim `{0}` is not of the form that it must have")]
    Claim(&'static str),
    /// It is for another tenant than that of the key which signed it, or only tenants have keys and none of these is asked for.
    #[error("{}", if *asked {
        "the token is for another tenant than its key (adit.tenant)"
    } else {
        "no tenant is asked for whose keys could verify the token: only tenants have keys here"
    })]
    UnknownTenant {
        /// Whether it was asked for a tenant with keys.
        asked: bool,
    },
    /// A client certificate that is on the list of those that are denied.
    #[error("the client certificate has been revoked")]
    Revoked,
    /// A client certificate that no rule is for.
    #[error("the client certificate has none of the names that are taken here")]
    Certificate,
    /// The keys could not be had so far: not the caller's fault.
    #[error("the keys to verify tokens with are not available")]
    NoKeys,
    /// The credentials are good, but not for this.
    #[error(transparent)]
    NotPermitted(#[from] NotPermitted),
}

impl Refused {
    /// The code that responses, logs and metrics use. Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing_token",
            Self::NoCertificate => "missing_certificate",
            Self::Header(_) => "invalid_authorization",
            Self::InvalidTenant(_) => "invalid_tenant",
            Self::Scheme => "unsupported_authorization",
            Self::TooLong { .. } => "token_too_long",
            Self::Malformed(_) => "malformed_token",
            Self::Algorithm => "unsupported_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "bad_signature",
            Self::Expired => "expired_token",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience { .. } => "wrong_audience",
            Self::Issuer { .. } => "wrong_issuer",
            Self::Claim(_) => "invalid_claim",
            Self::UnknownTenant { .. } => "unknown_tenant",
            Self::Revoked => "revoked_certificate",
            Self::Certificate => "unknown_certificate",
            Self::NoKeys => "no_keys",
            Self::NotPermitted(NotPermitted::Action(_)) => "action_not_permitted",
            Self::NotPermitted(NotPermitted::Endpoint(_)) => "endpoint_not_permitted",
            Self::NotPermitted(NotPermitted::Host(_) | NotPermitted::HostOfTenants(_)) => {
                "host_not_permitted"
            }
            Self::NotPermitted(NotPermitted::Tenant(_) | NotPermitted::NoTenant) => "tenant_not_permitted",
        }
    }

    /// The status of a response: 401 until the caller is known, 403 from then on (RFC 9110 §15.5.2, §15.5.4).
    pub fn status(&self) -> StatusCode {
        match self {
            // A certificate cannot be asked for by a challenge, without which there is no 401 (RFC 9110 §15.5.2).
            Self::NoCertificate => StatusCode::FORBIDDEN,
            Self::NotPermitted(_) | Self::Revoked | Self::Certificate => StatusCode::FORBIDDEN,
            Self::NoKeys => StatusCode::SERVICE_UNAVAILABLE,
            Self::InvalidTenant(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The `WWW-Authenticate` field of the response, when another token could change it (RFC 6750 §3).
    pub fn challenge(&self) -> Option<HeaderValue> {
        let error = match self.status() {
            // Whoever sent no token is told of none (RFC 6750 §3.1).
            StatusCode::UNAUTHORIZED if matches!(self, Self::Missing | Self::Scheme) => {
                return Some(HeaderValue::from_static("Bearer realm=\"adit\""));
            }
            StatusCode::UNAUTHORIZED if matches!(self, Self::Header(_)) => "invalid_request",
            StatusCode::UNAUTHORIZED => "invalid_token",
            StatusCode::FORBIDDEN if matches!(self, Self::NotPermitted(_)) => "insufficient_scope",
            _ => return None,
        };
        // No sentence has a quote or a backslash, and no name can.
        let text = format!("Bearer realm=\"adit\", error=\"{error}\", error_description=\"{self}\"");
        HeaderValue::try_from(text).ok()
    }

    /// What Piko says in its place, word for word.
    pub fn piko(&self) -> &'static str {
        match self {
            Self::Missing | Self::NoCertificate => "missing authorization",
            Self::Header(_) => "invalid authorization",
            Self::Scheme => "unsupported auth type",
            Self::Expired => "expired token",
            Self::UnknownTenant { .. }
            | Self::InvalidTenant(_)
            | Self::NotPermitted(NotPermitted::Tenant(_) | NotPermitted::NoTenant) => "unknown tenant",
            Self::NotPermitted(_) => "endpoint not permitted",
            _ => "invalid token",
        }
    }

    /// The same as an answer on a link.
    pub fn refusal(&self) -> Refusal {
        let code = match self.status() {
            // Whoever is missing one has only to show it.
            _ if matches!(self, Self::NoCertificate) => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::Forbidden,
            StatusCode::SERVICE_UNAVAILABLE => Code::Busy,
            StatusCode::BAD_REQUEST => Code::Invalid,
            _ => Code::Unauthenticated,
        };
        Refusal::new(code, self.to_string())
    }

    /// Whether the token may be good by another key.
    pub(super) fn is_of_another_key(&self) -> bool {
        matches!(self, Self::UnknownKey | Self::Signature | Self::Algorithm | Self::NoKeys)
    }

    /// Whether newer keys could change it.
    pub(super) fn is_of_keys(&self) -> bool {
        matches!(self, Self::UnknownKey | Self::NoKeys)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{auth::Action, protocol::EndpointId};

    /// One of each.
    pub(in crate::auth) fn all() -> Vec<Refused> {
        let endpoint = EndpointId::new("web").unwrap();
        vec![
            Refused::Missing,
            Refused::NoCertificate,
            Refused::Header("it is there twice"),
            Refused::InvalidTenant("the field is not one name"),
            Refused::Scheme,
            Refused::TooLong { len: 9000 },
            Refused::Malformed("it does not have three parts"),
            Refused::Algorithm,
            Refused::UnknownKey,
            Refused::Signature,
            Refused::Expired,
            Refused::NotYetValid,
            Refused::Audience { given: true },
            Refused::Issuer { given: false },
            Refused::Claim("exp"),
            Refused::UnknownTenant { asked: true },
            Refused::Revoked,
            Refused::Certificate,
            Refused::NoKeys,
            NotPermitted::Action(Action::Serve).into(),
            NotPermitted::Endpoint(endpoint).into(),
            NotPermitted::NoTenant.into(),
        ]
    }

    #[test]
    fn every_reason_has_a_status_a_code_and_what_piko_says() {
        let told = |refused: &Refused| {
            let (status, code) = (refused.status().as_u16(), refused.refusal().code);
            format!("{status} {code} {}: {}", refused.code(), refused.piko())
        };
        assert_eq!(
            all().iter().map(told).collect::<Vec<_>>(),
            [
                "401 unauthenticated missing_token: missing authorization",
                "403 unauthenticated missing_certificate: missing authorization",
                "401 unauthenticated invalid_authorization: invalid authorization",
                "400 invalid invalid_tenant: unknown tenant",
                "401 unauthenticated unsupported_authorization: unsupported auth type",
                "401 unauthenticated token_too_long: invalid token",
                "401 unauthenticated malformed_token: invalid token",
                "401 unauthenticated unsupported_algorithm: invalid token",
                "401 unauthenticated unknown_key: invalid token",
                "401 unauthenticated bad_signature: invalid token",
                "401 unauthenticated expired_token: expired token",
                "401 unauthenticated token_not_yet_valid: invalid token",
                "401 unauthenticated wrong_audience: invalid token",
                "401 unauthenticated wrong_issuer: invalid token",
                "401 unauthenticated invalid_claim: invalid token",
                "401 unauthenticated unknown_tenant: unknown tenant",
                "403 forbidden revoked_certificate: invalid token",
                "403 forbidden unknown_certificate: invalid token",
                "503 busy no_keys: invalid token",
                "403 forbidden action_not_permitted: endpoint not permitted",
                "403 forbidden endpoint_not_permitted: endpoint not permitted",
                "403 forbidden tenant_not_permitted: unknown tenant",
            ]
        );
    }

    #[test]
    fn challenges_are_those_of_bearer_tokens() {
        let challenge =
            |refused: Refused| refused.challenge().map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(challenge(Refused::Missing).unwrap(), "Bearer realm=\"adit\"");
        assert_eq!(
            challenge(Refused::Expired).unwrap(),
            "Bearer realm=\"adit\", error=\"invalid_token\", error_description=\"the token has expired (exp)\""
        );
        assert_eq!(
            challenge(NotPermitted::Action(Action::Serve).into()).unwrap(),
            "Bearer realm=\"adit\", error=\"insufficient_scope\", error_description=\"the action `serve` is not \
             permitted (adit.actions)\""
        );
        assert_eq!(challenge(Refused::NoCertificate), None);
        assert_eq!(challenge(Refused::Revoked), None);
        assert_eq!(challenge(Refused::NoKeys), None);
        for refused in all() {
            assert!(
                refused.status() != StatusCode::UNAUTHORIZED || refused.challenge().is_some(),
                "{refused}"
            );
            // What may stand in a description (RFC 6750 §3).
            assert!(!refused.to_string().contains(['"', '\\']), "{refused}");
        }
    }
}
