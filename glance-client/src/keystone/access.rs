//! The token of one piece of work, and the one after it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::session::Session;
use super::token::Token;
use crate::error::{Error, Result};

/// What one piece of work is authorized by: it is done with [`token`](Self::token), and what came of it is
/// [settled](Self::settle), until there is a result.
pub(crate) struct Access {
    session: Session,
    token: Arc<Token>,
    can_repeat: bool,
    is_second: bool,
}

impl Access {
    /// A token that has `needed` left (see [`Session::token_for`]), for work that can be repeated or not.
    pub(crate) async fn of(session: &Session, needed: Duration, can_repeat: bool) -> Result<Self> {
        let token = session.token_for(needed).await?;
        Ok(Self { session: session.clone(), token, can_repeat, is_second: false })
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// What came of the work; `None` if it is to be done again, because its token was refused and there is another one.
    /// That happens once. A token that a server repeats is in no error.
    pub(crate) async fn settle<T>(&mut self, result: Result<T>) -> Option<Result<T>> {
        let result = result.map_err(|error| error.without(self.token.secret()));
        let refused = |error: &Error| error.status() == Some(StatusCode::UNAUTHORIZED);
        if !result.as_ref().is_err_and(refused) {
            return Some(result);
        }
        if self.is_second {
            return Some(result.map_err(|error| error.with_hint(self.token.why_refused())));
        }
        if !self.can_repeat {
            return Some(result);
        }
        match (self.session.replace(&self.token).await, result) {
            (Ok(token), _) => {
                (self.token, self.is_second) = (token, true);
                None
            }
            // A Keystone that is not there for a moment makes this worth another try; that a token was refused does not.
            (Err(failed), Err(refused)) if failed.is_retryable() => {
                Some(Err(failed.with_hint(&format!("the token had been refused: {refused}"))))
            }
            (Err(_), result) => Some(result),
        }
    }
}
