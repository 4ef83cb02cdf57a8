//! Errors as CloudStack numbers them: an HTTP status, and sometimes the class of its exception.

/// Why a command is refused.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) status: u16,
    /// `cserrorcode`; the answer of the signature check has none.
    pub(super) cs: Option<u32>,
    pub(super) text: String,
}

pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: u16, cs: u32, text: impl Into<String>) -> Self {
        Self { status, cs: Some(cs), text: text.into() }
    }

    /// One text for a wrong key, a wrong signature, a request that expired and more.
    pub(super) fn unauthorized() -> Self {
        let text = "unable to verify user credentials and/or request signature".to_owned();
        Self { status: 401, cs: None, text }
    }

    /// A parameter that the command itself refuses.
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(431, 4350, text)
    }

    /// A parameter that is refused before the command sees it.
    pub(super) fn parameter(text: impl Into<String>) -> Self {
        Self::new(431, 9999, text)
    }

    pub(super) fn missing(command: &str, name: &str) -> Self {
        let command = command.to_lowercase();
        Self::parameter(format!(
            "Unable to execute API command {command} due to missing parameter {name}"
        ))
    }

    pub(super) fn no_such(command: &str, name: &str, value: &str) -> Self {
        let command = command.to_lowercase();
        Self::parameter(format!(
            "Unable to execute API command {command} due to invalid value. Invalid parameter \
             {name} value={value} due to incorrect long value format, or entity does not exist or \
             due to incorrect parameter annotation for the field in api cmd class."
        ))
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(430, 9999, text)
    }

    pub(super) fn unknown_command(command: &str) -> Self {
        let text = format!(
            "The given command '{command}' either does not exist, is not available for user, or \
             not available from ip address '/127.0.0.1'."
        );
        Self::new(432, 9999, text)
    }

    pub(super) fn internal(text: impl Into<String>) -> Self {
        Self::new(530, 4250, text)
    }

    pub(super) fn denied(text: impl Into<String>) -> Self {
        Self::new(531, 4365, text)
    }

    pub(super) fn allocation(text: impl Into<String>) -> Self {
        Self::new(535, 9999, text)
    }

    pub(super) fn capacity(text: impl Into<String>) -> Self {
        Self::new(533, 4325, text)
    }

    /// A rule that stands in the way of another.
    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::new(537, 4360, text)
    }

    /// A failure that a fault asked for.
    pub(super) fn on_purpose(status: u16) -> Self {
        let (cs, text) = match status {
            401 => return Self::unauthorized(),
            429 => (
                4545,
                "The given user has reached his/her account api limit, please retry after 100 ms.",
            ),
            503 => (
                9999,
                "Maintenance or shutdown has been initiated on this management server. Can not accept new jobs",
            ),
            531 => (4365, "The caller does not have permission to operate with this resource."),
            430 => (9999, "unable to decode parameter: x[0]y"),
            432 => (9999, "The given command either does not exist, or is not available for user."),
            511 => (4295, "The user must verify a second factor."),
            532 => (4280, "The limit of the account is reached."),
            533 => (4325, "Unable to find suitable capacity."),
            534 => (4380, "Resource is unavailable."),
            536 => (4375, "The resource is in use."),
            537 => (4360, "The rule conflicts with another one."),
            535 => (4370, "The limit of the account's resources is reached."),
            _ => (9999, "Internal error executing command, please contact your cloud provider"),
        };
        Self::new(status, cs, text)
    }
}
