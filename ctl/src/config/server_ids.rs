//! What is wrong with a server id, in the words of a file.

use dataplane::service::{MAX_SERVER_ID, MAX_SERVER_IDS, ServerIdError};

/// The key, the problem and the remedy. `earlier` names the id at a place of the list.
pub(crate) fn describe(
    error: ServerIdError,
    id: u32,
    earlier: impl Fn(usize) -> String,
) -> (&'static str, String, String) {
    match error {
        ServerIdError::Range => (
            "id",
            format!("{id} is not a server id"),
            format!("give a whole number from 1 to {MAX_SERVER_ID}"),
        ),
        ServerIdError::Twice(first) => (
            "id",
            format!("{id} is already the id of {}", earlier(first)),
            "give each id once".to_owned(),
        ),
        ServerIdError::TooMany => (
            "id",
            format!("more than {MAX_SERVER_IDS} server ids are too many"),
            "remove ids that no server has".to_owned(),
        ),
        ServerIdError::TooManyReals => (
            "real",
            error.to_string(),
            "let more ids name the same real".to_owned(),
        ),
    }
}
