//! Which names stand for secrets: those of header fields, and of parameters in queries and bodies. Whatever shows what it
//! carries asks here, so that nobody shows what another one hides.
//!
//! Pure. It knows names alone: a secret under a name that says nothing of it is not found.

/// What is in names of fields that hold secrets, wherever it stands: `authorization`, `x-api-key`, `x-csrf-token`, …
const FIELDS: [&str; 14] = [
    "auth",
    "assertion",
    "cookie",
    "credential",
    "csrf",
    "jwt",
    "key",
    "passw",
    "pwd",
    "secret",
    "session",
    "signature",
    "token",
    "xsrf",
];

/// The same of parameters, whose names are freer: `password_confirmation`.
const ANYWHERE: [&str; 3] = ["passphrase", "passwd", "password"];

/// What such names end with, all but their letters and digits left out: `access_token`, `clientSecret`, `X-Amz-Signature`.
const AT_THE_END: [&str; 16] = [
    "accesskey",
    "apikey",
    "assertion",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "csrf",
    "jwt",
    "privatekey",
    "pwd",
    "secret",
    "sessionid",
    "signature",
    "token",
    "xsrf",
];

/// Whole names that stand for secrets in queries, and for harmless things elsewhere.
const IN_QUERIES: [&str; 9] = ["auth", "code", "key", "otp", "pass", "pin", "session", "sid", "sig"];

/// What in a field's name says that its values are secrets. The name is in lower case.
pub fn in_field(name: &str) -> Option<&'static str> {
    FIELDS.into_iter().find(|secret| name.contains(secret))
}

/// Whether the values of a parameter, or of a member of an object, are secrets by its name.
pub fn in_parameter(name: &str) -> bool {
    let name = bare(name);
    ANYWHERE.iter().any(|secret| name.contains(secret))
        || AT_THE_END.iter().any(|secret| name.ends_with(secret))
}

/// The same of a query's parameter.
pub fn in_query(name: &str) -> bool {
    IN_QUERIES.contains(&bare(name).as_str()) || in_parameter(name)
}

fn bare(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|char| char.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_secret_by_what_their_names_end_with() {
        for name in [
            "token",
            "access_token",
            "refreshToken",
            "client-secret",
            "user[password]",
            "passwordConfirmation",
            "api_key",
            "apiKey",
            "X-Amz-Signature",
            "AWSSecretAccessKey",
            "id_token",
            "session_id",
            "credentials",
        ] {
            assert!(in_parameter(name) && in_query(name), "{name}");
        }
        for name in ["author", "max_tokens", "token_type", "keyword", "monkey", "name", "", "secretary"] {
            assert!(!in_parameter(name) && !in_query(name), "{name}");
        }
    }

    #[test]
    fn some_names_are_secret_in_queries_alone() {
        for name in IN_QUERIES {
            assert!(in_query(name) && !in_parameter(name), "{name}");
            assert!(!in_query(&format!("{name}_x")), "{name}");
        }
    }
}
