//! The numbers behind `cserrorcode`.

/// The exception of the server behind an error, by its `cserrorcode`: finer than the HTTP status, which several share.
/// The errors of jobs come without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CsErrorCode {
    /// 4250: something failed inside.
    CloudRuntime,
    /// 4280: a limit of the account.
    AccountLimit,
    /// 4285: the agent of a host does not answer.
    AgentUnavailable,
    /// 4290: the caller could not be authenticated.
    Authentication,
    /// 4295: a second factor is wanted.
    TwoFactorAuthentication,
    /// 4300: something else is being done with the object.
    ConcurrentOperation,
    /// 4325: there is no room.
    InsufficientCapacity,
    /// 4335: no host has room.
    InsufficientServerCapacity,
    /// 4340: no storage has room.
    InsufficientStorageCapacity,
    /// 4350: a parameter has a wrong value.
    InvalidParameterValue,
    /// 4360: a rule stands in the way of another.
    NetworkRuleConflict,
    /// 4365: the account may not do this.
    PermissionDenied,
    /// 4370: the account may not have more.
    ResourceAllocation,
    /// 4375: something uses the object.
    ResourceInUse,
    /// 4380: what is needed is not available.
    ResourceUnavailable,
    /// 4385: storage is not available.
    StorageUnavailable,
    /// 4540: the command was queued behind another.
    AsyncCommandQueued,
    /// 4545: too many calls.
    RequestLimit,
    /// 4560: the operation took too long.
    OperationTimedOut,
    /// 9999: no exception in particular; the status tells.
    ServerApi,
    /// Any other.
    Other(u32),
}

const KNOWN: [(u32, CsErrorCode); 20] = [
    (4250, CsErrorCode::CloudRuntime),
    (4280, CsErrorCode::AccountLimit),
    (4285, CsErrorCode::AgentUnavailable),
    (4290, CsErrorCode::Authentication),
    (4295, CsErrorCode::TwoFactorAuthentication),
    (4300, CsErrorCode::ConcurrentOperation),
    (4325, CsErrorCode::InsufficientCapacity),
    (4335, CsErrorCode::InsufficientServerCapacity),
    (4340, CsErrorCode::InsufficientStorageCapacity),
    (4350, CsErrorCode::InvalidParameterValue),
    (4360, CsErrorCode::NetworkRuleConflict),
    (4365, CsErrorCode::PermissionDenied),
    (4370, CsErrorCode::ResourceAllocation),
    (4375, CsErrorCode::ResourceInUse),
    (4380, CsErrorCode::ResourceUnavailable),
    (4385, CsErrorCode::StorageUnavailable),
    (4540, CsErrorCode::AsyncCommandQueued),
    (4545, CsErrorCode::RequestLimit),
    (4560, CsErrorCode::OperationTimedOut),
    (9999, CsErrorCode::ServerApi),
];

impl CsErrorCode {
    /// By its number.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        let known = KNOWN.iter().find(|(known, _)| *known == number);
        known.map_or(Self::Other(number), |(_, code)| *code)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            known => {
                KNOWN.iter().find(|(_, code)| *code == known).map_or(9999, |(number, _)| *number)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_there_and_back() {
        for (number, code) in KNOWN {
            assert_eq!((CsErrorCode::from_number(number), code.number()), (code, number));
        }
        assert_eq!(CsErrorCode::from_number(1), CsErrorCode::Other(1));
        assert_eq!(CsErrorCode::Other(7).number(), 7);
    }
}
