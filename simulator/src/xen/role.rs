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
        Some(match name {
            "read-only" => Self::ReadOnly,
            "vm-operator" => Self::VmOperator,
            "vm-admin" => Self::VmAdmin,
            "vm-power-admin" => Self::VmPowerAdmin,
            "pool-operator" => Self::PoolOperator,
            "pool-admin" => Self::PoolAdmin,
            _ => return None,
        })
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
