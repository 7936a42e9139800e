"""What Evenkeel's parts are measured by: data in, the core's own functions, figures out."""
