//! Client for the XenServer and XCP-ng management API (XAPI): calls as values, tasks, events, verified raw disk exports.
