#!/bin/sh
# Makes the bucket and one user per service in MinIO or its forks, each with the policy that lies beside this file under
# its name. Elsewhere make the users by hand and give them the same policies: they are plain S3 policy documents.
# Run it again to change the secrets. The variables api, dispatcher and so on hold one secret each.
set -eu
export MC_CONFIG_DIR=/tmp/mc
mc alias set --quiet objects "$S3_URL" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"
mc mb --quiet --ignore-existing objects/synthclone
for service in api dispatcher worker trainer evaluator; do
    eval "secret=\$$service"
    user=synthclone-$service policy=rights-of-$service
    mc admin policy create objects "$policy" "${0%/*}/policies/$service.json"
    mc admin user add objects "$user" "$secret"
    case $(mc admin user info objects "$user") in
        *"$policy"*) ;; # attaching a second time is an error
        *) mc admin policy attach objects "$policy" --user "$user" ;;
    esac
done
