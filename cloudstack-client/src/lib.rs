//! Client for the Apache CloudStack API.
