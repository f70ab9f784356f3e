#!/usr/bin/env bash
# {{ job.name }}: runs as root at every start of every host of {{ job.slices }} slice(s) {{ chips.chip }} {{ chips.topology }}.
# Written by `python -m rlvr_jax.jobs tpu-vm`.  To run it twice changes nothing.
set -euo pipefail

curl --fail --silent --show-error --output /usr/share/keyrings/cloud.google.asc \
  https://packages.cloud.google.com/apt/doc/apt-key.gpg
cat > /etc/apt/sources.list.d/gcsfuse.list << END
deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release --codename --short) main
END
apt-get --option DPkg::Lock::Timeout=600 update
apt-get --option DPkg::Lock::Timeout=600 install --yes gcsfuse
mkdir -p {{ work }}
mountpoint --quiet {{ work }} || gcsfuse --implicit-dirs {{ job.bucket | replace("gs://", "") }} {{ work }}

{% if job.image.split("/")[0].endswith((".pkg.dev", "gcr.io")) %}
gcloud auth configure-docker {{ job.image.split("/")[0] }} --quiet
{% endif %}
docker pull {{ job.image }}
gcloud=$(command -v gcloud)

# systemd knows the exit codes: 75 runs again, 0 deletes the machines, others leave them for a look.
cat > /etc/systemd/system/{{ job.name }}.service << END
[Unit]
After=docker.service
OnSuccess={{ job.name }}-delete.service

[Service]
ExecStartPre=-/usr/bin/docker rm --force {{ job.name }}
ExecStart=/usr/bin/docker run --rm --name {{ job.name }} --privileged --network host --ulimit memlock=-1 --stop-timeout {{ job.grace }} --volume {{ work }}:{{ work }} --workdir {{ work }}{% for key, value in cache.items() %} --env {{ key }}={{ value }}{% endfor %} {{ job.image }} python {{ job.command | sh }}
TimeoutStopSec={{ job.grace }}
RestartForceExitStatus=75
RestartSec=15
END
cat > /etc/systemd/system/{{ job.name }}-delete.service << END
[Service]
Type=oneshot
ExecStart=${gcloud} compute tpus queued-resources delete {{ job.name }} --zone={{ job.zone }}{% if job.project %} --project={{ job.project }}{% endif %} --force --quiet --async
END
systemctl daemon-reload
systemctl start {{ job.name }}.service
