package configs

import (
	"errors"
	"path/filepath"
)

// EnvRedisPassword is the environment variable with the password for the Redis that
// Store names.
const EnvRedisPassword = "SLUICE_REDIS_PASSWORD"

// EnvObjectsSecretKey is the environment variable with the secret of Objects.AccessKey.
const EnvObjectsSecretKey = "SLUICE_OBJECTS_SECRET_KEY"

// EnvDatabaseURL is the environment variable with a URL that takes the place of
// Database.URL and may hold credentials: https://NAME:PASSWORD@HOST/PATH.
const EnvDatabaseURL = "SLUICE_DATABASE_URL"

// Resolve validates c and fills every empty key whose default depends on the machine
// or on another key: state_dir, seal_key_file and spool.dir. getenv is os.Getenv; XDG_STATE_HOME and HOME are asked for.
func (c Config) Resolve(getenv func(string) string) (Config, error) {
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	if c.StateDir == "" {
		dir, err := stateDir(getenv)
		if err != nil {
			return Config{}, err
		}
		c.StateDir = dir
	}
	if c.SealKeyFile == "" {
		c.SealKeyFile = SealKey(c.StateDir)
	}
	if c.Spool.Dir == "" {
		c.Spool.Dir = filepath.Join(c.StateDir, "spool")
	}
	return c, nil
}

// SealKey returns the default of SealKeyFile: the only one that is made where it is
// missing.
func SealKey(stateDir string) string { return filepath.Join(stateDir, "seal.key") }

// stateDir follows the XDG base directory specification, which has relative values
// ignored.
func stateDir(getenv func(string) string) (string, error) {
	if s := getenv("XDG_STATE_HOME"); filepath.IsAbs(s) {
		return filepath.Join(s, "sluice"), nil
	}
	if s := getenv("HOME"); filepath.IsAbs(s) {
		return filepath.Join(s, ".local", "state", "sluice"), nil
	}
	return "", errors.New("state_dir: is not set, and neither XDG_STATE_HOME nor HOME says where state goes: set state_dir to a folder that may be written")
}
