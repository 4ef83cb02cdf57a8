//! OpenStack Keystone v3 sessions and Glance v2 images: verified streaming upload with the size declared first.
