#!/usr/bin/env bash
# Ends the job as the check ended. A check that never ended is a failure too.
set -euo pipefail

code="${POLICYGUARD_EXIT_CODE:-}"
case "$code" in
  0) exit 0 ;;
  1) echo "::error::images are blocked by a policy" ;;
  3) echo "::error::images could not be judged, and are blocked" ;;
  *)
    echo "::error::the check of images did not come to an end (exit code ${code:-unknown}); see its log"
    [[ "$code" =~ ^[1-9][0-9]{0,2}$ ]] || code=2
    ;;
esac
exit "$code"
