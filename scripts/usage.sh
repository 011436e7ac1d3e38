# shellcheck shell=bash
# Sourced by the other scripts, before they change directory.

# Print the comment at the head of the script.
usage() { awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"; }

# show_usage [ARGUMENT]: print it and exit if the argument is -h or --help.
show_usage() {
  case ${1:-} in
    -h | --help)
      usage
      exit
      ;;
  esac
}
