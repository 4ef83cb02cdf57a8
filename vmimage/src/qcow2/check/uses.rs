//! What each cluster of the file is used for, and how often.

/// What a cluster is used for, and what is known of it; a set of bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(u8);

impl Kind {
    /// Something that is there once: the header, an L1 table, refcounts, a list, a bitmap.
    pub(super) const FIXED: Self = Self(1);
    /// An L2 table, which snapshots share.
    pub(super) const TABLE: Self = Self(1 << 1);
    /// The guest's data, which snapshots share.
    pub(super) const DATA: Self = Self(1 << 2);
    /// It is an L2 table of the disk as it is now.
    pub(super) const ACTIVE: Self = Self(1 << 3);
    /// Its refcount is one: it may be written without a copy.
    pub(super) const ONE: Self = Self(1 << 4);
    /// It is used for two things that do not go together.
    const COLLIDES: Self = Self(1 << 5);

    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::ops::BitOr for Kind {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Three bytes for each cluster of the file.
pub(super) struct Uses {
    cluster: u64,
    counts: Vec<u16>,
    kinds: Vec<Kind>,
}

impl Uses {
    pub(super) fn new(cluster: u64, clusters: u64) -> Self {
        let n = usize::try_from(clusters).unwrap_or(0);
        Self { cluster, counts: vec![0; n], kinds: vec![Kind(0); n] }
    }

    /// The size of a cluster in bytes.
    pub(super) fn cluster(&self) -> u64 {
        self.cluster
    }

    /// How many clusters there are.
    pub(super) fn len(&self) -> u64 {
        self.counts.len() as u64
    }

    /// How often a cluster is used, as far as two bytes can tell.
    pub(super) fn count(&self, cluster: u64) -> u16 {
        usize::try_from(cluster).ok().and_then(|i| self.counts.get(i)).copied().unwrap_or(0)
    }

    /// Whether a cluster is used for two things that do not go together.
    pub(super) fn collides(&self, cluster: u64) -> bool {
        self.kind(cluster).has(Kind::COLLIDES)
    }

    /// Whether the cluster at byte `at` is of a kind.
    pub(super) fn has(&self, at: u64, kind: Kind) -> bool {
        self.kind(at / self.cluster).has(kind)
    }

    pub(super) fn kind(&self, cluster: u64) -> Kind {
        let kind = usize::try_from(cluster).ok().and_then(|i| self.kinds.get(i));
        kind.copied().unwrap_or(Kind(0))
    }

    /// Says more about a cluster.
    pub(super) fn mark(&mut self, cluster: u64, kind: Kind) {
        if let Some(old) = usize::try_from(cluster).ok().and_then(|i| self.kinds.get_mut(i)) {
            *old = *old | kind;
        }
    }

    /// Counts `times` uses of the clusters that `len` bytes at `at` touch.
    pub(super) fn add(&mut self, at: u64, len: u64, kind: Kind, times: u16) {
        let end = at.saturating_add(len).div_ceil(self.cluster).min(self.len());
        for cluster in at / self.cluster..end {
            let Ok(i) = usize::try_from(cluster) else { return };
            let (Some(count), Some(old)) = (self.counts.get_mut(i), self.kinds.get_mut(i)) else {
                return;
            };
            let alone = kind.has(Kind::FIXED) || old.has(Kind::FIXED);
            let mixed = kind.has(Kind::TABLE) && old.has(Kind::DATA)
                || kind.has(Kind::DATA) && old.has(Kind::TABLE);
            if *count > 0 && (alone || mixed) {
                *old = *old | Kind::COLLIDES;
            }
            *old = *old | kind;
            *count = count.saturating_add(times);
        }
    }
}
