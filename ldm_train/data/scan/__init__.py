"""Check every picture of a source before it is used: `survey` reads headers, `inspection` decodes pictures completely."""
