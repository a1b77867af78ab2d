"""The flags of `service create` and `service update`, as data, by theme.

Names, defaults and grammars are those of docker/cli (cli/command/service/opts.go, API 1.52);
"Essaim" marks what Docker does not have. Nothing is sent that was not asked for.
"""
