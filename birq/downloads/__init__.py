"""Files of public corpora: fetched, compared with a pinned checksum, unpacked. Outside every key: the checksum decides the bytes."""
