//! Who may do what. Besides the account of the pool there is one for each lesser role, named like
//! the role and with the same password.

use super::value::ApiError;

/// A role; each may do what those before it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    #[default]
    ReadOnly,
    VmOperator,
    VmAdmin,
    VmPowerAdmin,
    PoolOperator,
    PoolAdmin,
}

impl Role {
    /// By the name that the server has for it.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::ReadOnly,
            Self::VmOperator,
            Self::VmAdmin,
            Self::VmPowerAdmin,
            Self::PoolOperator,
            Self::PoolAdmin,
        ];
        all.into_iter().find(|role| role.name() == name)
    }

    /// The name that the server has for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::VmOperator => "vm-operator",
            Self::VmAdmin => "vm-admin",
            Self::VmPowerAdmin => "vm-power-admin",
            Self::PoolOperator => "pool-operator",
            Self::PoolAdmin => "pool-admin",
        }
    }

    /// Refuses what needs `least`, as the server does.
    pub(crate) fn permit(self, least: Self, permission: &str) -> Result<(), ApiError> {
        if self >= least {
            return Ok(());
        }
        let words = "No permission in user session";
        Err(ApiError::new("RBAC_PERMISSION_DENIED", [&permission.to_lowercase(), words]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_what_lesser_ones_may() {
        assert!(Role::VmAdmin.permit(Role::VmOperator, "VM.start").is_ok());
        let refused = Role::VmAdmin.permit(Role::VmPowerAdmin, "VM.snapshot").unwrap_err();
        assert_eq!(refused.code, "RBAC_PERMISSION_DENIED");
        assert_eq!(refused.params.first().map(String::as_str), Some("vm.snapshot"));
        assert_eq!(Role::from_name("root"), None);
    }
}
