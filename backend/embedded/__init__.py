"""Postgres, Valkey and the studio's own processes on one machine, as children that die with the process that started them."""
