//! What a request brings to show who it is from (RFC 9110 §11.6.2).
//!
//! Pure. A token is looked for in `x-adit-authorization`, then `x-piko-authorization`, then `Authorization`, and only in the
//! first of these that is there: so a client can speak to the fabric and to the service behind it by one field each.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, header};
use zeroize::Zeroizing;

use super::Refused;

/// adit's own field for credentials, which no service sees.
pub const ADIT_AUTHORIZATION: HeaderName = HeaderName::from_static("x-adit-authorization");

/// Piko's.
pub const PIKO_AUTHORIZATION: HeaderName = HeaderName::from_static("x-piko-authorization");

/// Where credentials are looked for, in this order.
const FIELDS: [HeaderName; 3] = [ADIT_AUTHORIZATION, PIKO_AUTHORIZATION, header::AUTHORIZATION];

/// With padding or without, as clients do either.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token, and where it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer<'a> {
    /// The token.
    pub token: &'a str,
    /// The field that it was in, which is not passed on once it has been used.
    pub field: HeaderName,
}

impl std::fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer").field("field", &self.field).finish_non_exhaustive()
    }
}

/// The token of a request (RFC 6750 §2.1).
///
/// # Errors
/// [`Refused::Missing`], [`Refused::Header`] when a field is there twice or cannot be read, [`Refused::Scheme`].
pub fn bearer(headers: &HeaderMap) -> Result<Bearer<'_>, Refused> {
    let field = FIELDS.into_iter().find(|field| headers.contains_key(field)).ok_or(Refused::Missing)?;
    let (scheme, token) = only(headers, &field)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::Scheme);
    }
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"-._~+/=".contains(&c);
    if token.is_empty() || !token.bytes().all(is_token) {
        return Err(Refused::Header("what stands behind Bearer is no token"));
    }
    Ok(Bearer { token, field })
}

/// A name and a password as `name:password`, for endpoints that ask for them (RFC 7617 §2), from `Authorization` alone.
/// Nothing when the field is missing or of another scheme.
///
/// # Errors
/// [`Refused::Header`] when it is there twice or cannot be read.
pub fn basic(headers: &HeaderMap) -> Result<Option<Zeroizing<Vec<u8>>>, Refused> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    let (scheme, encoded) = only(headers, &header::AUTHORIZATION)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded = BASE64.decode(encoded).map(Zeroizing::new);
    decoded.map(Some).map_err(|_| Refused::Header("what stands behind Basic is not base64"))
}

/// The scheme and what follows, of a field that must be there once: whoever else reads the request might take the other one.
fn only<'a>(headers: &'a HeaderMap, field: &HeaderName) -> Result<(&'a str, &'a str), Refused> {
    let mut values = headers.get_all(field).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Refused::Header("the field is there more than once"));
    };
    let text = value.to_str().map_err(|_| Refused::Header("it has characters that no credentials have"))?;
    let text = text.trim_matches([' ', '\t']);
    let (scheme, rest) = text.split_once(' ').ok_or(Refused::Header("there is nothing behind the scheme"))?;
    Ok((scheme, rest.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn token(fields: &[(&'static str, &str)]) -> Result<String, Refused> {
        bearer(&headers(fields)).map(|bearer| format!("{}: {}", bearer.field, bearer.token))
    }

    #[test]
    fn the_fabrics_own_field_is_read_before_the_services() {
        let authorization = ("authorization", "Bearer service");
        assert_eq!(token(&[authorization]).unwrap(), "authorization: service");
        let piko = ("x-piko-authorization", "bearer piko");
        assert_eq!(token(&[authorization, piko]).unwrap(), "x-piko-authorization: piko");
        let adit = ("x-adit-authorization", "BEARER  a.b-c_d~e+f/g=");
        assert_eq!(token(&[authorization, piko, adit]).unwrap(), "x-adit-authorization: a.b-c_d~e+f/g=");
        // A bad one is not made good by one of lower rank.
        assert_eq!(token(&[("x-piko-authorization", "Basic YQ=="), authorization]), Err(Refused::Scheme));
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        assert_eq!(token(&[]), Err(Refused::Missing));
        assert_eq!(token(&[("authorization", "Basic YTpi")]), Err(Refused::Scheme));
        for bad in ["Bearer", "", "Bearer a b", "Bearer \u{e9}", "Bearer a,b", "Bearer \"a\""] {
            let refused = token(&[("authorization", bad)]).unwrap_err();
            assert!(matches!(refused, Refused::Header(_)), "{bad}: {refused}");
        }
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert!(matches!(token(&twice), Err(Refused::Header(_))));
        let shown = format!("{:?}", bearer(&headers(&[("authorization", "Bearer hunter2")])).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_name_and_a_password_are_for_those_who_ask() {
        let of =
            |value: &str| basic(&headers(&[("authorization", value)])).map(|found| found.map(|b| b.to_vec()));
        assert_eq!(of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap().unwrap(), b"Aladdin:open sesame");
        assert_eq!(of("basic YTpi").unwrap().unwrap(), b"a:b");
        assert_eq!(of("Bearer YTpi").unwrap(), None);
        assert!(of("Basic ???").is_err());
        assert_eq!(basic(&HeaderMap::new()).unwrap(), None);
    }
}
