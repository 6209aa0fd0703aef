ALTER TABLE person_code ADD PRIMARY KEY (person_id);
ALTER TABLE person_code ADD UNIQUE (identity_number);
ALTER TABLE code_state ADD PRIMARY KEY (person_id);
ALTER TABLE code_state ADD FOREIGN KEY (person_id) REFERENCES person_code;
ALTER TABLE venue ADD PRIMARY KEY (id);
ALTER TABLE test_result ADD PRIMARY KEY (tube, person_id);
ALTER TABLE test_result ADD FOREIGN KEY (person_id) REFERENCES person_code;
ALTER TABLE scan_event ADD FOREIGN KEY (venue_id) REFERENCES venue;
GRANT USAGE ON SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
GRANT SELECT ON ALL TABLES IN SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
-- The service reads colours and adds registrations and its public key. It deletes and changes nothing:
-- a stolen password of the service cannot take an acknowledged registration away. What it does not use
-- (identity numbers, results) it cannot read.
GRANT USAGE ON SCHEMA public TO zaibei_app;
GRANT SELECT ON code_state, venue, ladder_state, revocation TO zaibei_app;
GRANT SELECT, INSERT ON sample_registration, signing_key TO zaibei_app;
