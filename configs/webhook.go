package configs

import (
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// A Webhook is a web server that takes events by POST, as CloudEvents in JSON.
type Webhook struct {
	// URL is where. https://HOST/PATH; http:// only on loopback, or with AllowPlainHTTP.
	// Required, unique: what was sent to a URL is remembered by it. Only its host is ever
	// shown; where the rest is a secret, so is this file.
	URL string `yaml:"url"`
	// SecretFile is a file with the secret that deliveries are signed with, 16 bytes at
	// least; several, one a line, while it is changed. It is read at each delivery.
	// Required.
	SecretFile string `yaml:"secret_file"`
	// Types are globs over the types of events: verdict.new, verdict.changed, pull.denied,
	// waiver.expiring, credential.expiring, database.stale, events.omitted. Default none:
	// all.
	Types []string `yaml:"types"`
	// Timeout is how long an answer may take, from 1s to 1m. Default "", 10s.
	Timeout *time.Duration `yaml:"timeout"`
	// AllowPlainHTTP sends events off loopback without TLS. Default false: whoever is on
	// the way reads who pulls what.
	AllowPlainHTTP bool `yaml:"allow_plain_http"`
}

const maxWebhooks = 16

var typeForm = regexp.MustCompile(`^[a-z.*?]{1,60}$`)

func (v *validation) webhooks(hooks []Webhook) {
	v.check(len(hooks) <= maxWebhooks, "webhooks", "are %d, at most %d are served", len(hooks), maxWebhooks)
	seen := map[string]bool{}
	for i, h := range hooks {
		key := fmt.Sprintf("webhooks[%d]", i)
		u, err := url.Parse(h.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			v.check(false, key+".url", "is no URL: write https://HOST/PATH") // not quoted: it may be a secret
		} else {
			v.check(u.User == nil, key+".url", "holds a password: remove it; receivers know a delivery by its signature")
			v.check(u.Fragment == "", key+".url", "must end before #")
			v.check(u.Scheme == "https" || h.AllowPlainHTTP || Loopback(withPort(u)), key+".url",
				"is not https: whoever is on the way could read who pulls what; use https://, or set allow_plain_http of this hook")
			v.check(!seen[h.URL], key+".url", "is listed twice: give one hook all types")
		}
		seen[h.URL] = true
		v.check(h.SecretFile != "", key+".secret_file", "is missing: name a file that holds what openssl rand -hex 32 prints")
		for _, t := range h.Types {
			v.check(typeForm.MatchString(t), key+".types", "%.60q is no glob over types of events, such as verdict.*", t)
		}
		if h.Timeout != nil {
			v.between(key+".timeout", *h.Timeout, time.Second, time.Minute)
		}
	}
}
