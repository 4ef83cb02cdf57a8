//! The pipeline that clones a running XenServer VM into a cloud image: durable steps with undo, as traits.
